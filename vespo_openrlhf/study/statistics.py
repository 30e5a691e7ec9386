"""From runs to statements: final accuracy over seeds, paired comparisons, collapse.

Intervals are Student's t over seeds: with four to eight seeds the normal
quantile would be too narrow by a third and more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import t

from vespo_openrlhf.eval.metrics.paired import holm

#: A run that ends below this share of its own best level has collapsed.
COLLAPSE_SHARE = 0.5
#: A run has reached the on-policy level at this share of the control's final accuracy.
LEVEL_SHARE = 0.95
#: A comparison is settled where its corrected p is below this.
LEVEL = 0.05
#: Above so many seeds the sign-flip test is left out: it sums 2^(n - 1) ways, and t does by then.
SIGN_FLIP_SEEDS = 16


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


@dataclass(frozen=True)
class Comparison:
    """Ours less a rival's, paired by seed, tested together with others.

    Attributes:
        difference: over seeds; its interval is not corrected.
        p: of no difference, two-sided, by the paired t test.
        sign_flip_p: the same by `sign_flip_test`, which takes no distribution for granted.
        holm_p: `p`, corrected for the number that were tested together.
    """

    difference: Estimate
    p: float
    sign_flip_p: float
    holm_p: float

    def verdict(self) -> str:
        """Whether ours is "above" or "below", or the question is "open"."""
        if not self.holm_p < LEVEL:
            return "open"
        return "above" if self.difference.mean > 0 else "below"


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
    return Estimate(mean, _t_quantile(count - 1) * math.sqrt(variance / count), count)


def t_test(values: Sequence[float]) -> float:
    """Two-sided p of a mean of 0, by Student's t; 1 for a single value, which settles nothing."""
    found = estimate(values)
    if found.count == 1 or found.mean == 0:
        return 1.0
    return 2 * _upper_tail(found, abs(found.mean))


def not_worse_test(values: Sequence[float], margin: float) -> float:
    """One-sided p of a mean of -margin or less, by Student's t, of two values or more."""
    found = estimate(values)
    return _upper_tail(found, found.mean + margin)


def _upper_tail(found: Estimate, distance: float) -> float:
    """How likely a mean is so far above that of its distribution; its values' spread is given."""
    error = found.half_width / _t_quantile(found.count - 1)
    if error == 0:
        return 0.0 if distance > 0 else 1.0
    return float(t.sf(distance / error, found.count - 1))


def _t_quantile(freedom: int) -> float:
    """The t that |T| stays below in 95 % of cases."""
    return float(t.ppf(0.975, freedom))


def sign_flip_test(values: Sequence[float]) -> float:
    """Two-sided p of values that are as likely positive as negative, exact.

    The share of the 2^n ways to choose the signs in which the sum is as far from 0 as here, so
    never below 2^(1 - n): 0.125 for four values. nan above SIGN_FLIP_SEEDS values.
    """
    if len(values) > SIGN_FLIP_SEEDS:
        return math.nan
    first, *others = values
    found = abs(sum(values)) - 1e-12  # a tie counts, whichever way it is rounded
    sums = [
        abs(first + sum(sign * value for sign, value in zip(signs, others, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(others))
    ]
    return sum(total >= found for total in sums) / len(sums)


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> dict[int, float]:
    """Seed -> ours - theirs, for the seeds that both have, in their order."""
    return {seed: ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())}


def compare(differences: Sequence[Mapping[int, float]]) -> list[Comparison]:
    """Test each of some `paired` differences, corrected for how many there are.

    Raises:
        ValueError: one without a seed.
    """
    values = [list(by_seed.values()) for by_seed in differences]
    ps = [t_test(of_one) for of_one in values]
    return [
        Comparison(estimate(of_one), p, sign_flip_test(of_one), corrected)
        for of_one, p, corrected in zip(values, ps, holm(ps), strict=True)
    ]


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
