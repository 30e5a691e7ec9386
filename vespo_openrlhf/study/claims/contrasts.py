"""Comparisons that are corrected together, over several tasks, and their tables.

What docs/study/protocol.md asks for: the two-sided paired t test, the one-sided test that a loss is
not worse by a margin, both corrected by Holm over all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vespo_openrlhf.eval.metrics.paired import holm
from vespo_openrlhf.study.claims.outcomes import Outcomes
from vespo_openrlhf.study.statistics import (
    LEVEL,
    Comparison,
    Estimate,
    compare,
    estimate,
    not_worse_test,
    paired,
)
from vespo_openrlhf.study.tables import markdown, percent, probability, read_rows

#: How much worse a loss may be and still not be called worse.
MARGIN = 0.01


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


def contrasts(outcomes: Mapping[str, Outcomes], pairs: Sequence[tuple[str, str]]) -> list[Contrast]:
    """Every comparison, corrected for all of them.

    Args:
        outcomes: of each task.
        pairs: ours and a rival, on every task.
    """
    names = [(task, *pair) for task in outcomes for pair in pairs]
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


def finals(outcomes: Outcomes, loss: str) -> Estimate:
    """Final accuracy over seeds."""
    return estimate([outcome.final for outcome in outcomes[loss].values()])


def ranked(outcomes: Mapping[str, Outcomes], first: str = "") -> list[str]:
    """The losses by their mean over the tasks, the best first; before them that named `first`."""
    losses = next(iter(outcomes.values()))
    return sorted(
        losses,
        key=lambda loss: (
            loss != first,
            -sum(finals(of_task, loss).mean for of_task in outcomes.values()),
        ),
    )


def shown(found: Estimate) -> str:
    """In per cent, with its interval."""
    return percent(found.mean, found.half_width)


def finals_table(outcomes: Mapping[str, Outcomes], first: str = "") -> str:
    """A row a loss: how it ends on each task, on how many seeds if not on all, and how often it
    collapsed."""
    seeds = max(len(ends) for of_task in outcomes.values() for ends in of_task.values())
    rows = []
    for loss in ranked(outcomes, first):
        row = [loss]
        for of_task in outcomes.values():
            collapsed = sum(outcome.collapsed for outcome in of_task[loss].values())
            cell = shown(finals(of_task, loss)) + (f" ({collapsed})" if collapsed else "")
            count = len(of_task[loss])
            row.append(cell if count == seeds else f"{cell}, {count} seeds")
        rows.append(row)
    return markdown(["loss", *outcomes], rows)


def leads_table(found: Sequence[Contrast]) -> str:
    """A row a comparison: its lead and verdict on each task."""
    tasks = dict.fromkeys(contrast.task for contrast in found)
    by_pair: dict[tuple[str, str], list[str]] = {}
    for contrast in found:
        lead = f"{shown(contrast.found.difference)}, {contrast.verdict()}"
        by_pair.setdefault((contrast.ours, contrast.rival), []).append(lead)
    return markdown(["loss", "rival", *tasks], [[*pair, *cells] for pair, cells in by_pair.items()])


def ends_table(outcomes: Outcomes, first: str = "") -> str:
    """How each loss ends on a task."""
    rows = []
    for loss in ranked({"": outcomes}, first):
        ends = list(outcomes[loss].values())
        drop = percent(estimate([end.drop for end in ends]).mean)
        collapsed = f"{sum(end.collapsed for end in ends)} of {len(ends)}"
        rows.append([loss, shown(finals(outcomes, loss)), drop, collapsed])
    return markdown(("loss", "final accuracy, %", "below its own best", "collapsed"), rows)


def contrasts_table(found: Sequence[Contrast]) -> str:
    """A row a comparison and task, with every p."""
    headings = ("task", "loss", "rival", "lead, points", "p", "Holm's p", "not worse, Holm's p")
    rows = [
        [
            *(contrast.task, contrast.ours, contrast.rival, shown(contrast.found.difference)),
            *(probability(contrast.found.p), probability(contrast.found.holm_p)),
            *(probability(contrast.not_worse), contrast.verdict()),
        ]
        for contrast in found
    ]
    return markdown((*headings, "verdict"), rows)


def full_stack_table(path: Path) -> str:
    """Runs of the full stack beside the light trainer's, from an agreement.csv.

    Raises:
        ValueError: see `read_rows`.
    """
    cells: list[list[str]] = []
    shares = ("full_stack", "light_same_seed", "light")

    def take(row: Mapping[str, str]) -> None:
        own = [percent(float(row[name])) for name in shares]
        cells.append([row["loss"], row["N"], row["seed"], *own])

    read_rows(path, take)
    light = ("light trainer, same seed", "light trainer, all its seeds")
    return markdown(("loss", "N", "seed", "full stack, %", *light), cells)
