"""Estimators over repeated samples of the same problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error, both in the unit of what was averaged."""

    value: float
    standard_error: float


def avg_at_k(correct: Sequence[Sequence[bool]]) -> Mean:
    """Mean accuracy over problems, each sampled k times, with the standard error over problems.

    Samples of one problem are not independent, so the error is clustered by problem: that of the
    mean of per-problem accuracies (Miller 2024, "Adding Error Bars to Evals", section 2.2, for
    clusters of equal size).

    Args:
        correct: per problem, the verdict of each of its samples; the same number for each.

    Raises:
        ValueError: no problem, no sample, or an unequal number of samples.
    """
    sizes = {len(samples) for samples in correct}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "avg@k needs at least one problem, and the same number of samples for each"
        )
    means = [sum(samples) / len(samples) for samples in correct]
    n = len(means)
    mean = sum(means) / n
    if n == 1:
        return Mean(mean, math.nan)
    variance = sum((m - mean) ** 2 for m in means) / (n - 1)
    return Mean(mean, math.sqrt(variance / n))


def pass_at_k(correct: Sequence[bool], k: int) -> float:
    """Probability that at least one of k samples is right, unbiased.

    The mean over all subsets of k of the n samples, 1 - C(n - c, k) / C(n, k) with c right ones
    (Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1).

    Args:
        correct: the verdicts of one problem's n samples.
        k: 1 to n.

    Raises:
        ValueError: k is not within 1 to n.
    """
    n, right = _counts(correct, k)
    return 1.0 - math.comb(n - right, k) / math.comb(n, k)


def pass_hat_k(correct: Sequence[bool], k: int) -> float:
    """pass^k: the probability that all of k samples are right, unbiased: C(c, k) / C(n, k).

    Yao et al. 2024, "tau-bench", section 4. Arguments and errors as in `pass_at_k`.
    """
    n, right = _counts(correct, k)
    return math.comb(right, k) / math.comb(n, k)


def _counts(correct: Sequence[bool], k: int) -> tuple[int, int]:
    n = len(correct)
    if not 1 <= k <= n:
        raise ValueError(f"k = {k}: with {n} samples, k can be 1 to {n}")
    return n, sum(map(bool, correct))
