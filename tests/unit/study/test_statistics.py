"""Estimates against scipy and against values worked out by hand."""

import math

import pytest

from vespo_openrlhf.study.statistics import (
    Estimate,
    estimate,
    mean_curve,
    paired_difference,
    summarise_run,
    t_probability,
    t_quantile,
    verdict,
)

stats = pytest.importorskip("scipy.stats")


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 7, 12, 31])
def test_t_is_scipys(freedom: int) -> None:
    assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-10)
    assert t_quantile(freedom, 0.5) == pytest.approx(stats.t.ppf(0.75, freedom), rel=1e-10)
    two_sided = 2 * stats.t.cdf(1.3, freedom) - 1
    assert t_probability(1.3, freedom) == pytest.approx(two_sided, rel=1e-12)


def test_an_interval_by_hand() -> None:
    # mean 0.5, variance 1/60 over n - 1 = 3, standard error sqrt(1/240), t = 3.1824
    result = estimate([0.35, 0.45, 0.55, 0.65])
    assert result.mean == pytest.approx(0.5)
    assert result.half_width == pytest.approx(3.182446 * math.sqrt(1 / 240), rel=1e-6)
    low, high = stats.t.interval(0.95, 3, 0.5, math.sqrt(1 / 240))
    assert (result.low, result.high) == pytest.approx((low, high))
    assert math.isnan(estimate([0.3]).half_width)
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])


def test_pairing_takes_the_seeds_that_both_have() -> None:
    difference = paired_difference({1: 0.9, 2: 0.8, 3: 0.1}, {1: 0.5, 2: 0.6, 4: 0.7})
    assert difference is not None
    assert (difference.mean, difference.count) == (pytest.approx(0.3), 2)
    assert paired_difference({1: 0.9}, {2: 0.5}) is None


def test_a_verdict_is_what_the_interval_says() -> None:
    assert verdict(Estimate(0.10, 0.05, 4)) == "holds"
    assert verdict(Estimate(-0.10, 0.05, 4)) == "refuted"
    assert verdict(Estimate(0.04, 0.05, 4)) == "open"
    assert verdict(Estimate(0.4, math.nan, 1)) == "open"


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
