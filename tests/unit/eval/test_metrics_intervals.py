"""The bootstrap interval: its coverage in simulated benchmarks, and where it meets scipy's."""

import numpy as np
import pytest
from scipy import stats

from vespo_openrlhf.eval.metrics import bootstrap_interval
from vespo_openrlhf.eval.metrics.intervals import bootstrap_intervals, difference_intervals

DATA_SETS = 2_000


def simulated(n, k, mean, spread, seed):
    """Per data set and problem, the accuracy of k samples; difficulties are Beta-distributed.

    `spread` is the sum of the Beta's parameters: below 1 most problems are nearly always or nearly
    never solved, as on real benchmarks.
    """
    rng = np.random.default_rng(seed)
    difficulty = rng.beta(mean * spread, (1 - mean) * spread, size=(DATA_SETS, n))
    return rng.binomial(k, difficulty) / k


def covered(ends, truth):
    return ((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean()


@pytest.mark.parametrize(
    ("n", "k", "mean", "spread"),
    [
        (30, 32, 0.1, 0.4),
        (30, 32, 0.5, 0.4),
        (30, 32, 0.97, 2.0),
        (30, 4, 0.03, 0.4),
        (30, 4, 0.5, 2.0),
        (30, 4, 0.9, 2.0),
        (100, 4, 0.05, 0.4),
        (100, 4, 0.7, 0.4),
    ],
)
def test_the_interval_covers_in_95_of_100_cases(n, k, mean, spread) -> None:
    ends = bootstrap_intervals(simulated(n, k, mean, spread, seed=n + k), resamples=1_000)
    assert 0.93 <= covered(ends, mean) <= 0.97


def test_one_sample_per_problem_covers_on_average_over_accuracies() -> None:
    # The interval depends on the number of right ones alone, so coverage is a sum, not a sample.
    n = 30
    right = np.arange(n + 1)
    ends = bootstrap_intervals((np.arange(n) < right[:, None]).astype(float))
    truths = np.linspace(0.02, 0.98, 97)
    inside = (ends[:, 0, None] <= truths) & (truths <= ends[:, 1, None])
    coverage = (stats.binom.pmf(right[:, None], n, truths) * inside).sum(axis=0)
    assert 0.94 < coverage.mean() < 0.96
    assert coverage.min() > 0.91


def test_percentile_bootstrap_would_not_do() -> None:
    values = simulated(30, 4, 0.03, 0.4, seed=34)
    weights = np.random.default_rng(0).multinomial(30, np.full(30, 1 / 30), size=1_000) / 30
    ends = np.quantile(values @ weights.T, [0.025, 0.975], axis=1).T
    assert covered(ends, 0.03) < 0.8


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_the_interval_agrees_with_scipy_where_problems_are_many(method: str) -> None:
    values = simulated(400, 4, 0.4, 0.5, seed=3)[0]
    scipys = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(0)
    ).confidence_interval
    width = scipys.high - scipys.low
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(scipys.low, abs=0.04 * width)
    assert high == pytest.approx(scipys.high, abs=0.04 * width)


@pytest.mark.parametrize("right", [0, 1, 5, 15])
def test_one_sample_per_problem_is_a_beta_interval(right: int) -> None:
    # With weights a = 0.8 at 0 and 1 the mean of the draws is Beta(c + a, n - c + a).
    n = 30
    low, high = bootstrap_interval([1.0] * right + [0.0] * (n - right), resamples=100_000)
    posterior = stats.beta(right + 0.8, n - right + 0.8)
    assert low == pytest.approx(min(posterior.ppf(0.025), right / n), abs=0.003)
    assert high == pytest.approx(posterior.ppf(0.975), abs=0.003)


def test_all_wrong_and_all_right_have_an_interval_with_width() -> None:
    low, high = bootstrap_interval([0.0] * 30)
    assert low == 0.0
    assert 0.05 < high < 0.2
    low, high = bootstrap_interval([1.0] * 30)
    assert 0.8 < low < 0.95
    assert high == 1.0


def test_the_same_seed_gives_the_same_interval_whatever_stands_beside_it() -> None:
    values = simulated(20, 4, 0.5, 1.0, seed=0)[:3]
    assert bootstrap_interval(values[0]) == bootstrap_interval(values[0])
    assert bootstrap_interval(values[0]) != bootstrap_interval(values[0], seed=1)
    together = bootstrap_intervals(values)[0]
    assert together == pytest.approx(np.array(bootstrap_interval(values[0])), abs=1e-12)


def test_a_higher_level_is_wider() -> None:
    values = simulated(20, 4, 0.5, 1.0, seed=0)[0]
    low, high = bootstrap_interval(values, level=0.8)
    wider_low, wider_high = bootstrap_interval(values, level=0.99)
    assert wider_low < low < values.mean() < high < wider_high


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="within 0 and 1"):
        bootstrap_interval([0.5, 1.5])
    with pytest.raises(ValueError, match="between 0 and 1"):
        bootstrap_interval([0.5], level=95)


def paired(n, k, mean, seed):
    """Two runs on the same problems, the second better by a shift that differs by problem."""
    rng = np.random.default_rng(seed)

    def accuracies(size):
        before = np.clip(rng.beta(mean * 0.5, (1 - mean) * 0.5, size=size), 1e-6, 1 - 1e-6)
        shift = 0.5 + 0.7 * rng.standard_normal(size)
        return before, 1 / (1 + (1 - before) / before * np.exp(-shift))

    before, after = accuracies(1_000_000)
    truth = (after - before).mean()
    before, after = accuracies((DATA_SETS, n))
    return (rng.binomial(k, after) - rng.binomial(k, before)) / k, truth


@pytest.mark.parametrize(("n", "k", "mean"), [(30, 1, 0.5), (100, 4, 0.5), (100, 1, 0.8)])
def test_the_interval_of_a_difference_covers(n, k, mean) -> None:
    differences, truth = paired(n, k, mean, seed=n + k)
    assert 0.93 <= covered(difference_intervals(differences, resamples=1_000), truth) <= 0.97


@pytest.mark.parametrize("mean", [0.03, 0.09, 0.5, 0.91])
@pytest.mark.parametrize("k", [1, 4])
def test_the_interval_covers_where_one_run_has_more_samples(k: int, mean: float) -> None:
    """32 samples against k, of runs that are equally good, each at problems of its own."""
    rng = np.random.default_rng([k, round(100 * mean)])
    before, after = rng.beta(1.5 * mean, 1.5 * (1 - mean), size=(2, DATA_SETS, 30))
    many = rng.random((32, DATA_SETS, 30)) < before
    few = rng.random((k, DATA_SETS, 30)) < after
    differences = few.mean(axis=0) - many.mean(axis=0)
    even = few.mean(axis=0) - many[:k].mean(axis=0)
    intervals = difference_intervals(differences, even_RN=even, resamples=1_000)
    assert covered(intervals, 0.0) >= 0.93


def test_runs_that_agree_on_every_problem_still_have_an_interval() -> None:
    low, high = difference_intervals(np.zeros((1, 30)))[0]
    assert -0.15 < low < -0.02
    assert 0.02 < high < 0.15
