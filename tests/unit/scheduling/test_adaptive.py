import logging

import pytest

from vespo_openrlhf.scheduling.adaptive import LagController


def test_one_move_meets_the_target_where_log_ess_falls_with_the_lag(caplog):
    controller = LagController(target=0.5, minimum=3, maximum=64, start=20)
    with caplog.at_level(logging.INFO):
        controller.observe(version=20, ess=0.5 ** (20 / 15))
    assert controller.lag == 15
    assert "working lag 20 -> 15 updates at version 20: ESS 0.397, target 0.500" in caplog.text


def test_waits_until_the_move_shows():
    controller = LagController(target=0.5, minimum=0, maximum=64, start=10)
    for version, ess, lag in ((4, 0.99, 10), (12, 0.9, 15), (26, 0.9, 15), (27, 0.9, 23)):
        controller.observe(version, ess)
        assert controller.lag == lag


def test_stays_within_its_bounds_and_in_the_dead_band():
    controller = LagController(target=0.5, minimum=7, maximum=12, start=10)
    for version, ess, lag in (
        *((100, 0.51, 10), (200, 0.99, 12), (300, 0.99, 12)),
        *((400, 0.0, 7), (500, 0.0, 7)),
    ):
        controller.observe(version, ess)
        assert controller.lag == lag


def test_ess_is_a_share():
    with pytest.raises(ValueError, match="share"):
        LagController(0.5, 0, 10, 5).observe(10, 300.0)
    with pytest.raises(ValueError, match="share"):
        LagController(0.5, 0, 10, 5).observe(10, float("nan"))


def test_state():
    controller = LagController(target=0.5, minimum=0, maximum=64, start=10)
    controller.observe(12, 0.9)
    resumed = LagController(target=0.5, minimum=0, maximum=14, start=10)
    resumed.load_state_dict(controller.state_dict())
    assert (controller.lag, resumed.lag) == (15, 14)
    resumed.observe(26, 0.2)
    assert resumed.lag == 14
