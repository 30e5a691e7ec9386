"""The paired tests against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from vespo_openrlhf.eval.metrics.paired import holm, mcnemar_p_value, sign_flip_p_value


@pytest.mark.parametrize("seed", range(20))
def test_the_sign_flip_test_is_scipys_with_all_permutations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    differences = rng.integers(-4, 6, size=rng.integers(2, 13))
    expected = stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda a, b, axis: (a - b).sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    ).pvalue
    assert sign_flip_p_value(differences.tolist()) == pytest.approx(expected)


def test_the_sign_flip_test_of_many_problems_is_scipys_sampled_one() -> None:
    differences = np.random.default_rng(0).integers(-8, 10, size=300)
    expected = stats.permutation_test(
        (differences, np.zeros_like(differences)),
        lambda a, b, axis: (a - b).sum(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9_999,
        rng=np.random.default_rng(1),
    ).pvalue
    assert sign_flip_p_value(differences.tolist()) == pytest.approx(expected, abs=0.02)


def test_the_sign_flip_test_at_its_ends() -> None:
    assert sign_flip_p_value([0, 0, 0]) == 1.0
    assert sign_flip_p_value([3, -3]) == 1.0
    assert sign_flip_p_value([1] * 10) == 2 / 2**10
    assert sign_flip_p_value([6] * 10) == 2 / 2**10  # the unit does not matter
    assert 0 < sign_flip_p_value([32] * 500) < 1e-100


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (5, 0), (7, 3), (3, 7), (40, 60)])
def test_mcnemar_is_the_binomial_test_of_the_flips(gained: int, lost: int) -> None:
    flips = gained + lost
    tail = sum(math.comb(flips, i) for i in range(min(gained, lost) + 1))
    expected = min(1.0, 2 * tail / 2**flips)
    assert mcnemar_p_value(gained, lost) == pytest.approx(expected)
    # With one sample per problem it is the sign-flip test.
    assert sign_flip_p_value([1] * gained + [-1] * lost) == pytest.approx(expected)


def test_holm_by_hand() -> None:
    # 3 x 0.01, 2 x 0.03, and 0.04 that may not be below what comes before it.
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    assert holm([0.2]) == [0.2]


def test_p_values_are_valid_where_nothing_differs() -> None:
    rng = np.random.default_rng(4)
    p = [sign_flip_p_value(rng.integers(-4, 5, size=30).tolist()) for _ in range(2_000)]
    assert np.mean(np.array(p) <= 0.05) == pytest.approx(0.05, abs=0.012)
