"""Tests between two runs on the same problems. All of them are exact; none samples."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def sign_flip_p_value(differences: Sequence[int]) -> float:
    """Two-sided permutation p-value of "the two runs are exchangeable within each problem".

    Under it every difference is as likely with the other sign, so the p-value is the share of the
    2^N sign patterns whose sum is at least as far from 0 as the one seen. Differences in whole
    numbers make all of them countable: the sums of subsets, by dynamic programming.

    Args:
        differences: per problem, right samples of B minus those of A. Both must have as many
            samples, or the null hypothesis does not make the two signs equally likely.

    Returns:
        Within (0, 1]; 1 where no problem differs.
    """
    sizes = [abs(d) for d in differences if d]
    if not sizes:
        return 1.0
    unit = math.gcd(*sizes)
    sizes = sorted(size // unit for size in sizes)
    total = sum(sizes)
    seen = abs(sum(differences)) // unit
    # probability[t]: of the differences taken as positive adding up to t; their sum is 2 t - total.
    probability = np.zeros(total + 1)
    probability[0] = 1.0
    reached = 0
    for size in sizes:
        shifted = probability[: reached + 1].copy()
        reached += size
        probability[size : reached + 1] += shifted
        probability[: reached + 1] /= 2
    sums = 2 * np.arange(total + 1) - total
    return min(1.0, float(probability[np.abs(sums) >= seen].sum()))


def mcnemar_p_value(gained: int, lost: int) -> float:
    """McNemar's exact test: of the problems that flipped, is either direction the rule?

    Two-sided binomial test of `gained` in `gained + lost` at 1/2 (McNemar 1947, in its exact
    form). With one sample per problem it is the sign-flip test.
    """
    from scipy.stats import binomtest

    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values, in the order given: they hold for the family as a whole."""
    adjusted = [1.0] * len(p_values)
    so_far = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        so_far = max(so_far, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, so_far)
    return adjusted
