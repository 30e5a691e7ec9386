"""Means over trained samples, and whose they are where several ranks share a sample."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

from vespo_openrlhf.bridge.sample_metrics import SampleMetrics


def status(**per_sample: list[float]) -> dict:
    """As `ActorPPOTrainer.training_step` returns it; NaN where it divides by no token."""
    metrics = {name: torch.tensor(values) for name, values in per_sample.items()}
    return {
        "metrics": {"policy_loss": torch.tensor(0.5), "ppo_kl": torch.tensor(math.nan)}
        | {"actor_lr": 1e-3}
        | metrics,
        "weights": {"policy_loss": "token", "ppo_kl": "token", "actor_lr": None}
        | dict.fromkeys(per_sample, "sample"),
        "num_samples": 2.0,
        "num_action_tokens": 7.0,
    }


def test_means_are_over_what_is_finite_of_what_was_trained() -> None:
    metrics = SampleMetrics()
    trained, half = torch.ones(2, 3), torch.tensor([[0, 0, 0], [0, 1, 1]])
    metrics.take(status(reward=[1.0, 0.0], steps=[4.0, math.nan], never=[math.nan] * 2), trained)
    metrics.take(status(reward=[9.0, 1.0], steps=[9.0, math.inf], never=[9.0, math.nan]), half)
    means = metrics.drain(None)
    assert means.pop("never") != means.get("never")  # NaN: Statuses leaves it out
    assert means == pytest.approx({"reward": 2 / 3, "steps": 4.0})
    assert metrics.drain(None) == {}


def test_a_micro_batch_without_an_action_token_weighs_nothing() -> None:
    """All ranks' tokens of it may be none, and OpenRLHF divides by them."""
    report = status(reward=[math.nan, math.nan])
    metrics = SampleMetrics()
    metrics.take(report, torch.zeros(2, 3))
    assert 0 < report["num_action_tokens"] < 1e-6
    assert report["metrics"]["policy_loss"] == report["metrics"]["ppo_kl"] == 0
    assert report["metrics"]["actor_lr"] == 1e-3
    assert math.isnan(metrics.drain(None)["reward"])
    whole = status(reward=[1.0, 1.0])
    metrics.take(whole, torch.ones(2, 3))
    assert math.isnan(whole["metrics"]["ppo_kl"])  # of tokens: to be seen
    assert whole["num_action_tokens"] == 7


@pytest.mark.parametrize("mesh", ["4,1,1", "2,2,1", "2,1,2", "1,2,2"])
def test_copies_of_a_sample_count_once(mesh: str, tmp_path: Path) -> None:
    """Four gloo ranks as OpenRLHF's mesh has them: data, ring attention, tensor parallel."""
    worker = Path(__file__).with_name("data_ranks.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen([sys.executable, worker, str(rank), mesh, tmp_path], env=environment)
        for rank in range(4)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0] * 4
    data = int(mesh[0])
    for rank in range(4):
        metrics = json.loads((tmp_path / f"{rank}.json").read_text())
        # Data rank d trains d + 1 samples, all with the reward d.
        number = data * (data + 1) // 2
        assert metrics["vespo/num_positive"] == 2 * number  # in each of two updates
        assert metrics["vespo/num_dropped"] == 2 * data
        # In the second update the log-probs of rank d are lower by d, of all three tokens.
        drift = sum(d * (d + 1) for d in range(data)) / number
        for update, kl in zip(metrics["updates"], (0.0, drift), strict=True):
            assert update["vespo/num_positive"] == number
            assert update["vespo/num_dropped"] == data
            assert update["rollout_kl"] == pytest.approx(kl)
            assert update["vespo/log_w_mean"] == pytest.approx(-3 * kl)
            assert update["rollout_log_ppl"] == 1.0
        assert metrics["reward"] == pytest.approx(
            sum(d * (d + 1) for d in range(data)) / number, abs=1e-6
        )


def test_openrlhfs_own_means_survive_a_micro_batch_without_an_action_token() -> None:
    """`ActorPPOTrainer.ppo_train` itself, over what a stand-in for its training step reports."""
    metrics = SampleMetrics()
    masks = [torch.ones(1, 3), torch.zeros(1, 3)]

    def training_step(experience: Experience, *args: object) -> dict:
        mask = experience.action_mask
        report = status(reward=[1.0 if mask.any() else math.nan])
        report["metrics"]["ppo_kl"] = (0.25 * mask).sum() / mask.sum()
        report |= {"num_samples": 1.0, "num_action_tokens": float(mask.sum())}
        metrics.take(report, mask)
        return report

    trainer = SimpleNamespace(
        args=SimpleNamespace(
            train=SimpleNamespace(dynamic_batch_enable=False),
            ds=SimpleNamespace(tensor_parallel_size=1),
        ),
        strategy=SimpleNamespace(
            ring_attn_group=None,
            accumulated_gradient=1,
            is_rank_0=lambda: False,
            all_reduce=lambda values: values,
        ),
        replay_buffer=Buffer([Experience(action_mask=mask) for mask in masks]),
        dataloader_pin_memory=False,
        max_epochs=1,
        training_step=training_step,
    )
    means = ActorPPOTrainer.ppo_train(trainer, 0.0) | metrics.drain(None)
    assert means["ppo_kl"] == pytest.approx(0.25)
    assert means["policy_loss"] == pytest.approx(0.5)
    assert means["reward"] == 1.0


class Buffer(list):
    """One experience a micro-batch."""

    sample_batch_size = 1

    @staticmethod
    def collate_fn(batch: list) -> Experience:
        return batch[0]
