"""The primary comparisons of docs/study/protocol.md, worked out from the runs of its three tasks.

    python -m vespo_openrlhf.study primary docs/study/primary

reads TASK/runs.csv there and prints the tables in Markdown. Standard library and scipy alone.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scipy.stats import t

from vespo_openrlhf.eval.metrics.paired import holm
from vespo_openrlhf.study.presets import CONTROL, PRESETS
from vespo_openrlhf.study.statistics import Comparison, compare, estimate, paired
from vespo_openrlhf.study.tables import markdown, percent, probability

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
    """

    task: str
    ours: str
    rival: str
    found: Comparison
    not_worse: float


def read_outcomes(path: Path) -> Outcomes:
    """Loss -> seed -> outcome, of a runs.csv.

    Raises:
        ValueError: no such file, or not the runs of the protocol, each loss on each of its seeds.
    """
    grids = PRESETS["primary"].grids
    wanted = {(loss.label, seed) for grid in grids for loss in grid.losses for seed in grid.seeds}
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    found: dict[str, dict[int, Outcome]] = {}
    for row in rows:
        final, best = float(row["final"]), float(row["best"])
        outcome = Outcome(final, best - final, row["collapsed"] == "True")
        found.setdefault(row["loss"], {})[int(row["seed"])] = outcome
    missing = wanted - {(loss, seed) for loss, seeds in found.items() for seed in seeds}
    if missing:
        loss, seed = min(missing)
        raise ValueError(
            f"{path}: {len(missing)} of the protocol's runs are missing, {loss} on seed {seed} "
            "among them: run the preset primary to its end"
        )
    return found


def _pairs() -> Iterator[tuple[str, str]]:
    for ours in OURS:
        yield from ((ours, rival) for rival in RIVALS)
    yield from ((ours, "VESPO") for ours in OURS[1:])


def p_not_worse(differences: Sequence[float], margin: float = MARGIN) -> float:
    """One-sided p, by Student's t, of a mean difference of -margin or less."""
    found = estimate(differences)
    freedom = found.count - 1
    error = found.half_width / float(t.ppf(0.975, freedom))
    if error == 0:
        return 0.0 if found.mean > -margin else 1.0
    return float(t.sf((found.mean + margin) / error, freedom))


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
    not_worse = holm([p_not_worse(list(by_seed.values())) for by_seed in differences])
    return [
        Contrast(*name, found, p)
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
    rows.sort(key=lambda row: -row[0] if not math.isnan(row[0]) else math.inf)
    headings = ("loss", "final accuracy, %", "below its own best", "collapsed")
    return markdown(headings, [cells for _, cells in rows])


def contrasts_table(found: Sequence[Contrast]) -> str:
    """The comparisons of one task or more."""
    headings = ("task", "loss", "rival", "lead, points", "Holm's p", "not worse, Holm's p", "so")
    rows = []
    for contrast in found:
        verdict = contrast.found.verdict()
        if verdict == "open" and contrast.not_worse < 0.05:
            verdict = "not worse"
        difference = contrast.found.difference
        rows.append(
            [
                contrast.task,
                contrast.ours,
                contrast.rival,
                percent(difference.mean, difference.half_width),
                probability(contrast.found.holm_p),
                probability(contrast.not_worse),
                verdict,
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
        outcomes = {task: read_outcomes(folder / task / "runs.csv") for task in TASKS}
    except ValueError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    for task, of_task in outcomes.items():
        print(f"{task}\n\n{losses_table(of_task)}")
    print(contrasts_table(contrasts(outcomes)))
    print(f"The control is {CONTROL.label}: every update on fresh samples.")
    return 0
