"""The metrics of a rollout batch that was trained in several steps, by hand."""

from vespo_openrlhf.bridge.run.log import BatchMetrics


def test_means_are_weighted_by_updates_maxima_kept_and_counts_and_seconds_summed() -> None:
    metrics = BatchMetrics()
    metrics.once({"rollout/reward_mean": 0.5})
    metrics.add({"timing/ppo_train": 2.0})
    metrics.mean(
        {"kl": 1.0, "vespo/log_w_max": 3.0, "vespo/num_dropped": 2.0, "vespo/lag_0/num_samples": 4},
        updates=1,
    )
    metrics.add({"timing/ppo_train": 3.0})
    metrics.mean({"kl": 5.0, "vespo/log_w_max": -1.0, "vespo/num_dropped": 1.0}, updates=3)
    # A range of lags occurs in one of the steps only.
    metrics.mean({"vespo/lag_1/log_w_mean": 0.7, "vespo/num_dropped": 0.0}, updates=2)
    assert metrics.values() == {
        "rollout/reward_mean": 0.5,
        "timing/ppo_train": 5.0,
        "kl": 4.0,
        "vespo/log_w_max": 3.0,
        "vespo/num_dropped": 3.0,
        "vespo/lag_0/num_samples": 4.0,
        "vespo/lag_1/log_w_mean": 0.7,
    }


def test_negative_maxima_are_not_lost_against_zero() -> None:
    metrics = BatchMetrics()
    for value in (-3.0, -2.0, -4.0):
        metrics.mean({"grad_max": value}, 1)
    assert metrics.values() == {"grad_max": -2.0}
