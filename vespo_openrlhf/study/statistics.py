"""From runs to statements: final accuracy over seeds, paired differences, collapse.

Standard library only. Intervals are Student's t over seeds: with four to eight seeds the normal
quantile would be too narrow by a third and more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: A run that ends below this share of its own best level has collapsed.
COLLAPSE_SHARE = 0.5
#: A run has reached the on-policy level at this share of the control's final accuracy.
LEVEL_SHARE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    Attributes:
        mean: of the values.
        half_width: of its 95 % interval; nan for one value.
        count: values.
    """

    mean: float
    half_width: float
    count: int

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        return self.mean + self.half_width


@dataclass(frozen=True)
class RunSummary:
    """One run in four numbers.

    Attributes:
        start: accuracy of the warm start.
        final: mean accuracy of the last evaluations.
        best: the highest mean over as many consecutive evaluations.
        reached: first update by which the mean over as many evaluations was at the on-policy
            level; None if never, or where there is no control.
    """

    start: float
    final: float
    best: float
    reached: int | None

    @property
    def drop(self) -> float:
        """From best to final."""
        return self.best - self.final

    @property
    def collapsed(self) -> bool:
        """Whether it ended below half of its best level, the warm start's included."""
        return self.final < COLLAPSE_SHARE * max(self.best, self.start)


def summarise_run(
    evaluations: Sequence[tuple[int, float]], last: int, control_final: float | None = None
) -> RunSummary:
    """The summary of one run.

    Args:
        evaluations: (update, accuracy), the first before any update.
        last: evaluations that are averaged.
        control_final: final accuracy of the on-policy run of the same seed and learning rate.

    Raises:
        ValueError: fewer than `last` evaluations after the first.
    """
    if len(evaluations) <= last:
        raise ValueError(f"{len(evaluations)} evaluations, too few for a mean of the last {last}")
    trained = evaluations[1:]
    means = [
        (trained[i][0], sum(accuracy for _, accuracy in trained[i + 1 - last : i + 1]) / last)
        for i in range(last - 1, len(trained))
    ]
    reached = None
    if control_final is not None:
        level = LEVEL_SHARE * control_final
        reached = next((update for update, mean in means if mean >= level), None)
    return RunSummary(evaluations[0][1], means[-1][1], max(mean for _, mean in means), reached)


def t_probability(t: float, freedom: int) -> float:
    """P(|T| <= t) of Student's t with a whole number of degrees of freedom.

    The finite series of Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    angle = math.atan(t / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    total = 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * k / (k + 1)
    return (angle + sine * total) * 2 / math.pi if odd else sine * total


def t_quantile(freedom: int, level: float = 0.95) -> float:
    """The t that |T| stays below with probability `level`."""
    low, high = 0.0, 1.0
    while t_probability(high, freedom) < level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if t_probability(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and 95 % t interval.

    Raises:
        ValueError: no values.
    """
    count = len(values)
    if not count:
        raise ValueError("a mean needs at least one value")
    mean = sum(values) / count
    if count == 1:
        return Estimate(mean, math.nan, 1)
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return Estimate(mean, t_quantile(count - 1) * math.sqrt(variance / count), count)


def paired_difference(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """ours - theirs over the seeds both have, with the interval of the paired differences.

    Returns:
        None where they share no seed.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    return estimate([ours[seed] - theirs[seed] for seed in seeds]) if seeds else None


def verdict(difference: Estimate) -> str:
    """What the interval says of the claim "ours is above": holds, is refuted, or stays open."""
    if difference.low > 0:
        return "holds"
    return "refuted" if difference.high < 0 else "open"


def mean_curve(runs: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    """Mean and standard error over runs at each point; as long as the shortest run."""
    points = [list(point) for point in zip(*runs, strict=False)]
    count = len(runs)
    means = [sum(point) / count for point in points]
    errors = [
        math.sqrt(sum((v - m) ** 2 for v in point) / (count - 1) / count) if count > 1 else 0.0
        for point, m in zip(points, means, strict=True)
    ]
    return means, errors


def accuracies(result: Mapping[str, Any]) -> list[float]:
    """The accuracies of a run's evaluations."""
    return [accuracy for _, accuracy in result["evaluations"]]
