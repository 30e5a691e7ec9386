"""The primary comparisons of docs/study/protocol.md, worked out from the runs of its three tasks.

    python -m vespo_openrlhf.study primary docs/study/primary

reads TASK/runs.csv there and prints the tables in Markdown.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vespo_openrlhf.eval.metrics.paired import holm
from vespo_openrlhf.study.cells import Cell
from vespo_openrlhf.study.presets import CONTROL, PRESETS
from vespo_openrlhf.study.statistics import (
    LEVEL,
    Comparison,
    compare,
    estimate,
    not_worse_test,
    paired,
)
from vespo_openrlhf.study.tables import markdown, percent, probability
from vespo_openrlhf.study.tasks import get_task

TASKS = ("addition", "uneven", "long")
OURS = ("VESPO", "pessimistic", "taper")
RIVALS = ("GRPO", "GSPO", "SAPO", "TOPR", "GSPO, wide")
#: How much worse a loss may be and still not be called worse.
MARGIN = 0.01


@dataclass(frozen=True)
class Outcome:
    """Of one run: final accuracy, how far below its own best that is, and whether it collapsed."""

    final: float
    drop: float
    collapsed: bool


Outcomes = Mapping[str, Mapping[int, Outcome]]


@dataclass(frozen=True)
class Contrast:
    """One of the comparisons that are corrected together.

    Attributes:
        task, ours, rival: which.
        found: of the two-sided test.
        not_worse: p of the one-sided test that ours is not `MARGIN` or more below, corrected.
        collapses: how many runs of ours collapsed.
    """

    task: str
    ours: str
    rival: str
    found: Comparison
    not_worse: float
    collapses: int

    def verdict(self) -> str:
        """One of above, below, not worse, open.

        Not worse is only said where no run of ours collapsed: a mean over 64 seeds says little of
        what happens once in sixty, and the t test of it too often says too much.
        """
        said = self.found.verdict()
        if said == "open" and self.not_worse < LEVEL and not self.collapses:
            return "not worse"
        return said


def read_outcomes(path: Path, task: str) -> Outcomes:
    """Loss -> seed -> outcome, of a runs.csv. A run that failed is a row whose `final` is empty.

    Raises:
        ValueError: no such file, or not exactly the runs of the protocol: each loss on each of its
            seeds once, under its condition, on this task.
    """
    grids = PRESETS["primary"].grids
    rate = get_task(task).learning_rate
    wanted = {
        (cell.loss.label, cell.seed): cell
        for grid in grids
        for cell in replace(grid, learning_rates=(rate,)).cells()
    }
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    found: dict[str, dict[int, Outcome]] = {}
    for number, row in enumerate(rows, start=2):
        loss, seed = row["loss"], int(row["seed"])
        cell = wanted.pop((loss, seed), None)
        if cell is None or _facts(row) != _facts_of(cell, task):
            raise ValueError(
                f"{path}:{number}: {loss} on seed {seed} is no run of the protocol, or is there "
                "twice: keep the preset's runs alone"
            )
        final, best = (float(row[name]) if row[name] else 0.0 for name in ("final", "best"))
        if not math.isfinite(final + best):
            raise ValueError(f"{path}:{number}: an accuracy is not finite")
        outcome = Outcome(final, best - final, row["collapsed"] == "True" or not row["final"])
        found.setdefault(loss, {})[seed] = outcome
    if wanted:
        loss, seed = min(wanted)
        raise ValueError(
            f"{path}: {len(wanted)} of the protocol's runs are missing, {loss} on seed {seed} "
            "among them: run the preset primary to its end"
        )
    return found


def _facts(row: Mapping[str, str]) -> tuple[Any, ...]:
    numbers = (float(row[name]) for name in ("lag", "learning_rate", "mu_noise", "engine_noise"))
    return (row["task"], int(row["N"]), json.loads(row["options"]), row["sampler"], *numbers)


def _facts_of(cell: Cell, task: str) -> tuple[Any, ...]:
    numbers = (cell.lag, cell.learning_rate, cell.mu_noise, cell.engine_noise)
    options = dict(cell.loss.options)
    return (task, cell.updates_per_batch, options, cell.sampler_dtype, *numbers)


def _pairs() -> Iterator[tuple[str, str]]:
    for ours in OURS:
        yield from ((ours, rival) for rival in RIVALS)
    yield from ((ours, "VESPO") for ours in OURS[1:])


def contrasts(outcomes: Mapping[str, Outcomes]) -> list[Contrast]:
    """Every primary comparison, corrected for all of them.

    Args:
        outcomes: of each task.
    """
    names = [(task, *pair) for task in outcomes for pair in _pairs()]
    differences = []
    for task, ours, rival in names:
        left, right = (
            {seed: outcome.final for seed, outcome in outcomes[task][loss].items()}
            for loss in (ours, rival)
        )
        differences.append(paired(left, right))
    not_worse = holm([not_worse_test(list(by_seed.values()), MARGIN) for by_seed in differences])
    return [
        Contrast(*name, found, p, sum(o.collapsed for o in outcomes[name[0]][name[1]].values()))
        for name, found, p in zip(names, compare(differences), not_worse, strict=True)
    ]


def losses_table(outcomes: Outcomes) -> str:
    """How each loss ends on a task, the best first."""
    rows = []
    for loss, by_seed in outcomes.items():
        ends = list(by_seed.values())
        final = estimate([end.final for end in ends])
        rows.append(
            (
                final.mean,
                [
                    loss,
                    percent(final.mean, final.half_width),
                    percent(estimate([end.drop for end in ends]).mean),
                    f"{sum(end.collapsed for end in ends)} of {len(ends)}",
                ],
            )
        )
    rows.sort(key=lambda row: -row[0])
    headings = ("loss", "final accuracy, %", "below its own best", "collapsed")
    return markdown(headings, [cells for _, cells in rows])


def contrasts_table(found: Sequence[Contrast]) -> str:
    """The comparisons of one task or more."""
    headings = ("task", "loss", "rival", "lead, points", "Holm's p", "not worse, Holm's p", "so")
    rows = []
    for contrast in found:
        difference = contrast.found.difference
        rows.append(
            [
                contrast.task,
                contrast.ours,
                contrast.rival,
                percent(difference.mean, difference.half_width),
                probability(contrast.found.holm_p),
                probability(contrast.not_worse),
                contrast.verdict(),
            ]
        )
    return markdown(headings, rows)


def main(arguments: Sequence[str]) -> int:
    """Print the tables.

    Returns:
        0, or 2 with the reason on standard error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m vespo_openrlhf.study primary",
        description="The tables of docs/study/protocol.md, from DIR/TASK/runs.csv of each of "
        f"{', '.join(TASKS)}.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="docs/study/primary")
    folder = parser.parse_args(arguments).folder
    try:
        outcomes = {task: read_outcomes(folder / task / "runs.csv", task) for task in TASKS}
    except ValueError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    for task, of_task in outcomes.items():
        print(f"{task}\n\n{losses_table(of_task)}")
    print(contrasts_table(contrasts(outcomes)))
    print(f"The control is {CONTROL.label}: every update on fresh samples.")
    return 0
