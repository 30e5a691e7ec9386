"""Bootstrap intervals over problems that hold near 0 and 1 too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: Weight of each of the two imaginary problems: Jeffreys' prior.
PRIOR = 0.5
_CHUNK = 500


def bootstrap_interval(
    per_problem_means: Sequence[float],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    low: float = 0.0,
    high: float = 1.0,
) -> tuple[float, float]:
    """Interval for the mean over all problems of the kind, given those that were sampled.

    A Bayesian bootstrap (Rubin 1981): each resample weights the problems with a flat Dirichlet
    draw. Beside them stand two imaginary problems of weight 1/2 each, one at `low` and one at
    `high`. Without them a bootstrap knows nothing of outcomes it has not seen: 30 problems at an
    accuracy of 0.03 give a percentile interval that covers the truth in 60 to 80 % of cases, and
    one of no width where every answer is wrong. With them coverage is 93 to 98 % there (the tests
    measure it), and with one sample per problem the interval is Jeffreys' for a proportion (Brown,
    Cai and DasGupta 2001). Their effect goes with 1/n: from about 100 problems at accuracies within
    0.1 to 0.9 the interval agrees with the percentile bootstrap.

    Args:
        per_problem_means: one value per problem within `low` to `high`.
        level: the share of cases in which the interval is to hold the truth.
        resamples: how many draws; the Monte Carlo error of an end is about a fiftieth of the
            standard error with 10,000.
        seed: of the draws; the same seed and values give the same interval.
        low, high: least and greatest value a problem can have; -1 and 1 for differences.

    Returns:
        The ends. The mean of the problems lies between them except at `low` and `high` themselves,
        where the interval reaches up to it.

    Raises:
        ValueError: no problem, a value outside `low` to `high`, or a level not within 0 to 1.
    """
    values = np.asarray(per_problem_means, dtype=np.float64)
    if values.size == 0:
        raise ValueError("an interval needs at least one problem")
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: it lies between 0 and 1")
    if not ((values >= low) & (values <= high)).all():
        raise ValueError(f"the values of the problems must lie within {low} to {high}")
    interval = bootstrap_intervals(
        values[None], level=level, resamples=resamples, seed=seed, low=low, high=high
    )[0]
    return float(interval[0]), float(interval[1])


def bootstrap_intervals(
    values_RN: np.ndarray,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    low: float = 0.0,
    high: float = 1.0,
) -> np.ndarray:
    """`bootstrap_interval` of R quantities measured on the same N problems, with shared draws.

    Args:
        values_RN: (R, N) float64.

    Returns:
        (R, 2): the ends.
    """
    rows, n = values_RN.shape
    rng = np.random.default_rng(seed)
    prior = rng.gamma(PRIOR, size=(resamples, 2))
    means = np.empty((rows, resamples))
    for start in range(0, resamples, _CHUNK):  # all draws at once are 8 bytes x resamples x N
        extremes = prior[start : start + _CHUNK]
        weights = rng.exponential(size=(len(extremes), n))
        total = weights.sum(axis=1) + extremes.sum(axis=1)
        sums = values_RN @ weights.T + extremes @ np.array([low, high])
        means[:, start : start + _CHUNK] = sums / total
    tail = (1 - level) / 2
    ends = np.quantile(means, [tail, 1 - tail], axis=1).T
    # Nothing seen but an extreme: no evidence against that extreme itself.
    observed = values_RN.mean(axis=1)
    ends[:, 0] = np.minimum(ends[:, 0], observed)
    ends[:, 1] = np.maximum(ends[:, 1], observed)
    return ends
