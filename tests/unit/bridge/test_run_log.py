"""What a run tells of a rollout batch that was trained in several steps, by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

from vespo_openrlhf.bridge.run.folder import RunFolder
from vespo_openrlhf.bridge.run.log import BatchMetrics, RunLog
from vespo_openrlhf.scheduling import Batch, TrainStep


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


def test_the_records_of_a_batch(make_group, tmp_path: Path) -> None:
    groups = [make_group(t, [1.0, 0.0]) for t in range(3)]
    batch = Batch(4, 12, ((groups[0],), (groups[1],), (groups[2],)))
    log = RunLog(RunFolder(tmp_path), None, None, done=4, total=5)
    log.begin_batch({"rollout/reward_mean": 0.5, "generated_samples": ["1", 0.5]}, seconds=0.25)
    log.add_step(5, TrainStep(batch, 0, 1), {"kl": 1.0}, [{"policy_loss": 0.1}], seconds=2.0)
    two = [{"policy_loss": 0.2}, {"policy_loss": 0.3}]
    log.add_step(5, TrainStep(batch, 1, 3), {"kl": 4.0}, two, seconds=3.0)
    report = SimpleNamespace(
        scalars=lambda: {"lag/max": 3}, lag=SimpleNamespace(mean=1.5), in_flight=8
    )
    metrics = log.end_batch(report, {"weights/messages": 2.0})
    assert metrics.pop("timing/step_total") > 0
    assert metrics == {
        "rollout/reward_mean": 0.5,
        "generated_samples": ["1", 0.5],
        "timing/make_experience": 0.25,
        "timing/ppo_train": 5.0,
        "kl": 3.0,
        "lag/max": 3,
        "weights/messages": 2.0,
    }
    log.tensorboard.log_train(5, metrics)
    log.evaluated(5, {"eval_pass1": 0.5})
    assert log.close([]) == []

    def lines(name: str) -> list[dict]:
        return [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]

    assert [(line["step"], line["kind"]) for line in lines("metrics.jsonl")] == [
        (5, "train"),
        (5, "eval"),
    ]
    places = [(line["update"], line["step"], line["mini_batch"]) for line in lines("updates.jsonl")]
    assert places == [(12, 5, 0), (13, 5, 1), (14, 5, 2)]
    assert [(line["ticket"], line["update"]) for line in lines("samples.jsonl")] == [
        (0, 12),
        (1, 13),
        (2, 14),
    ]
    assert lines("prompts.json") == [[]]
