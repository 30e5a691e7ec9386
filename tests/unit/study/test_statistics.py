"""Estimates against scipy and against values worked out by hand."""

import math

import pytest
from scipy import stats

from vespo_openrlhf.study.statistics import (
    Comparison,
    Estimate,
    compare,
    estimate,
    mean_curve,
    not_worse_test,
    paired,
    sign_flip_test,
    summarise_run,
    t_test,
)


def test_an_interval_by_hand() -> None:
    # mean 0.5, variance 1/60 over n - 1 = 3, standard error sqrt(1/240), t = 3.1824
    result = estimate([0.35, 0.45, 0.55, 0.65])
    assert result.mean == pytest.approx(0.5)
    assert result.half_width == pytest.approx(3.182446 * math.sqrt(1 / 240), rel=1e-6)
    _, high = stats.t.interval(0.95, 3, 0.5, math.sqrt(1 / 240))
    assert result.mean + result.half_width == pytest.approx(high)
    assert math.isnan(estimate([0.3]).half_width)
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])


def test_pairing_takes_the_seeds_that_both_have() -> None:
    difference = paired({2: 0.8, 1: 0.9, 3: 0.1}, {1: 0.5, 2: 0.6, 4: 0.7})
    assert difference == {1: pytest.approx(0.4), 2: pytest.approx(0.2)}
    assert paired({1: 0.9}, {2: 0.5}) == {}


def test_the_t_test_is_scipys() -> None:
    values = [0.1, -0.02, 0.3, 0.15, 0.07]
    assert t_test(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-9)
    assert t_test([0.4]) == t_test([0.1, -0.1]) == 1
    assert t_test([0.25, 0.25]) == 0


def test_the_sign_flip_test_counts_the_signs() -> None:
    # Of 3 + 2 - 1 the sums are 4, 6, 0, 2 and their negatives: 4 and 6 are as far off as 4.
    assert sign_flip_test([3, 2, -1]) == 1 / 2
    assert sign_flip_test([0.1, 0.2, 0.3, 0.4]) == 1 / 8  # the least that four values can have
    assert sign_flip_test([0.5]) == 1
    assert math.isnan(sign_flip_test([1.0] * 17))
    values = [0.3, -0.1, 0.25, 0.2, 0.05, -0.02, 0.11]
    flipped = stats.permutation_test((values,), lambda x: sum(x), permutation_type="samples")
    assert sign_flip_test(values) == pytest.approx(flipped.pvalue)


def test_comparisons_are_corrected_for_one_another() -> None:
    clear, weak = {1: 0.3, 2: 0.31, 3: 0.29}, {1: -0.3, 2: -0.2, 3: -0.25}
    alone = compare([weak])[0]
    with_another, other = compare([weak, clear])
    assert (alone.p, alone.holm_p) == (with_another.p, alone.p)
    assert with_another.holm_p == pytest.approx(max(alone.p, 2 * other.p))
    assert with_another.difference == alone.difference == estimate([-0.3, -0.2, -0.25])
    assert other.sign_flip_p == 0.25


def test_a_verdict_is_what_the_corrected_p_says() -> None:
    def verdict(mean: float, holm_p: float) -> str:
        return Comparison(Estimate(mean, 0.01, 4), 0.001, 0.125, holm_p).verdict()

    assert verdict(0.1, 0.049) == "above"
    assert verdict(-0.1, 0.049) == "below"
    assert verdict(0.1, 0.05) == "open"


def test_a_run_by_hand() -> None:
    run = [(0, 0.5), (10, 0.6), (20, 0.8), (30, 0.9), (40, 0.2), (50, 0.2)]
    summary = summarise_run(run, last=2, control_final=0.8)
    assert (summary.start, summary.final) == (0.5, pytest.approx(0.2))
    assert summary.best == pytest.approx(0.85)
    assert summary.drop == pytest.approx(0.65)
    assert summary.reached == 30  # (0.8 + 0.9) / 2 >= 0.95 * 0.8
    assert summary.collapsed
    assert summarise_run(run, last=2, control_final=0.95).reached is None
    assert summarise_run(run, last=2).reached is None
    # Never better than the warm start, and far below it: collapsed as well.
    assert summarise_run([(0, 0.5), (10, 0.2), (20, 0.2)], last=2).collapsed
    with pytest.raises(ValueError, match="too few"):
        summarise_run(run[:2], last=2)


def test_a_curve_has_the_standard_error_of_each_point() -> None:
    means, errors = mean_curve([[1.0, 0.0], [3.0, 0.0, 7.0]])
    assert means == [2.0, 0.0]
    assert errors == [pytest.approx(1.0), 0.0]


def test_not_worse_is_a_one_sided_test_against_the_margin() -> None:
    differences = [-0.004, 0.01, 0.002, -0.012, 0.006]
    expected = stats.ttest_1samp(differences, -0.01, alternative="greater").pvalue
    assert not_worse_test(differences, 0.01) == pytest.approx(expected)
    assert not_worse_test([0.0, 0.0], 0.01) == 0
    assert not_worse_test([-0.01, -0.01], 0.01) == 1
