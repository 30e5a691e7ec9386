"""Bootstrap intervals over problems that hold near 0 and 1 too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_CHUNK = 500

#: Weight of each imaginary problem where problems are as dispersed as they can be. Between
#: Jeffreys' 1/2 and Laplace's 1; chosen for its coverage, see `bootstrap_interval`.
_PRIOR = 0.8
_PRIOR_OF_DIFFERENCES = 0.5
_LITTLE = 0.02


def bootstrap_interval(
    per_problem_means: Sequence[float],
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval for the mean over all problems of the kind, given those that were sampled.

    A Bayesian bootstrap (Rubin 1981): each resample weights the problems with a flat Dirichlet
    draw. Beside the N problems stand two imaginary ones, one at 0 and one at 1. Without them a
    bootstrap knows nothing of outcomes it has not seen: 30 problems at an accuracy of 0.03 give a
    percentile interval that covers the truth in 65 to 82 % of cases, and one of no width where
    every answer is wrong. Each imaginary problem weighs 0.8 D, where D is the variance of the
    problems over the greatest that their mean allows, m (1 - m): 1 with one sample per problem,
    near 0 where all problems are equally hard and sampled often. So the width follows the data.

    Coverage of the 95 % interval, 4,000 simulated data sets of 30 problems with 4 or 32 samples
    each, Beta-distributed difficulties, mean accuracies 0.02 to 0.97: 94.0 to 97.5 %; plain
    percentile 56 to 95 %. With one sample per problem coverage jumps with the accuracy, as that of
    every interval for a proportion does: 95 % on average, 92 to 98 % over accuracies 0.02 to 0.98.

    Args:
        per_problem_means: one value within 0 to 1 per problem.
        level: the share of cases in which the interval is to hold the truth.
        resamples: number of draws.
        seed: of the draws; the same seed and values give the same interval.

    Returns:
        The ends, with the mean of the problems between them.

    Raises:
        ValueError: no problem, a value outside 0 to 1, or a level not within 0 to 1.
    """
    values = np.asarray(per_problem_means, dtype=np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError("the values of the problems must lie within 0 and 1")
    low, high = bootstrap_intervals(values[None], level=level, resamples=resamples, seed=seed)[0]
    return float(low), float(high)


def bootstrap_intervals(
    values_RN: np.ndarray, *, level: float = 0.95, resamples: int = 10_000, seed: int = 0
) -> np.ndarray:
    """`bootstrap_interval` of R quantities measured on the same N problems, with shared draws.

    Args:
        values_RN: (R, N) float64 within 0 to 1.

    Returns:
        (R, 2): the ends; a row does not depend on the rows after it.
    """
    _check(values_RN, level)
    n = values_RN.shape[1]
    # The imaginary problems count in the mean and the variance, so that nothing but 0s has D = 1.
    mean = (values_RN.sum(axis=1) + 0.5) / (n + 1)
    squares = ((values_RN - mean[:, None]) ** 2).sum(axis=1) + (mean**2 + (1 - mean) ** 2) / 2
    dispersion = squares / (n + 1) / (mean * (1 - mean))
    return _weighted_quantiles(values_RN, 0.0, 1.0, _PRIOR * dispersion, level, resamples, seed)


def difference_intervals(
    differences_RN: np.ndarray,
    *,
    even_RN: np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> np.ndarray:
    """Intervals for mean differences between two runs on the same problems.

    As `bootstrap_intervals`, with imaginary problems at -1 and 1 that weigh 0.5 D each. D is here
    the sum of squares over the sum of absolute values: 1 where problems flip entirely (one sample
    each), near 0 where many samples change a little. Two runs that agree on every problem get an
    interval of some width around 0.

    Coverage in the like of `bootstrap_interval`'s simulations: 93 to 98 % where a fourth of the
    problems or more differ; more, up to 100 %, where few do (there the plain interval of the
    mean +- t standard errors covers in 60 to 90 %). Where one run has 32 samples of each problem
    and the other 1 or 4, 94 to 100 % with D of `even_RN`; with D of all samples, which do not show
    how little the shorter run has seen, 91 to 99 %.

    Args:
        differences_RN: (R, N) float64 within -1 to 1.
        even_RN: the same from as many samples of both runs, for D; None where they have as many.

    Returns:
        (R, 2): the ends.
    """
    _check(differences_RN, level)
    even_RN = differences_RN if even_RN is None else even_RN
    squares, sizes = even_RN**2, np.abs(even_RN)
    # Where no problem differs, nothing speaks against flips: D = 1.
    dispersion = (squares.sum(axis=1) + _LITTLE) / (sizes.sum(axis=1) + _LITTLE)
    prior = _PRIOR_OF_DIFFERENCES * dispersion
    return _weighted_quantiles(differences_RN, -1.0, 1.0, prior, level, resamples, seed)


def _check(values_RN: np.ndarray, level: float) -> None:
    if values_RN.shape[1] == 0:
        raise ValueError("an interval needs at least one problem")
    if not 0 < level < 1:
        raise ValueError(f"level = {level}: it lies between 0 and 1")


def _weighted_quantiles(
    values_RN: np.ndarray,
    low: float,
    high: float,
    prior_R: np.ndarray,
    level: float,
    resamples: int,
    seed: int,
) -> np.ndarray:
    rows, n = values_RN.shape
    # Two streams, so that the weights of the problems do not depend on the number of rows.
    prior_rng, rng = np.random.default_rng([seed, 1]), np.random.default_rng([seed, 0])
    at_low, at_high = prior_rng.standard_gamma(
        prior_R[:, None, None], size=(rows, 2, resamples)
    ).swapaxes(0, 1)
    means = np.empty((rows, resamples))
    for start in range(0, resamples, _CHUNK):  # all draws at once are 8 bytes x resamples x N
        part = slice(start, start + _CHUNK)
        weights = rng.standard_exponential((min(_CHUNK, resamples - start), n))
        sums = values_RN @ weights.T + low * at_low[:, part] + high * at_high[:, part]
        means[:, part] = sums / (weights.sum(axis=1) + at_low[:, part] + at_high[:, part])
    tail = (1 - level) / 2
    ends = np.quantile(means, [tail, 1 - tail], axis=1).T
    # Nothing seen but an extreme is no evidence against that extreme.
    observed = values_RN.mean(axis=1)
    ends[:, 0] = np.minimum(ends[:, 0], observed)
    ends[:, 1] = np.maximum(ends[:, 1], observed)
    return ends
