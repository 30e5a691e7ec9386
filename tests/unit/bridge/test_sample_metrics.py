"""Means over trained samples, and whose they are where several ranks share a sample."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vespo_openrlhf.bridge.rank.sample_metrics import SampleMetrics


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
    assert math.isnan(means["never"])  # BatchMetrics leaves it out
    assert (means["reward"], means["steps"]) == pytest.approx((2 / 3, 4.0))


def test_means_are_over_tokens_and_the_last_of_what_is_none() -> None:
    metrics = SampleMetrics()
    for tokens, kl, rate in ((6, 0.5, 1e-3), (0, math.nan, 2e-3), (2, 0.1, 3e-3)):
        report = status(reward=[1.0, 1.0])
        report["num_action_tokens"] = float(tokens)
        report["metrics"] |= {"ppo_kl": torch.tensor(kl), "actor_lr": rate}
        metrics.take(report, torch.full((2, 3), tokens).bool())
    means = metrics.drain(None)
    assert means["ppo_kl"] == pytest.approx((6 * 0.5 + 2 * 0.1) / 8)
    assert means["policy_loss"] == pytest.approx(0.5)
    assert means["actor_lr"] == 3e-3
    metrics.take(status(reward=[1.0, 1.0]), torch.ones(2, 3))
    assert math.isnan(metrics.drain(None)["ppo_kl"])  # of tokens: to be seen


def test_a_batch_without_an_action_token_has_means_of_nothing() -> None:
    metrics = SampleMetrics()
    metrics.take(status(reward=[math.nan, math.nan]), torch.zeros(2, 3))
    means = metrics.drain(None)
    assert all(math.isnan(means[name]) for name in ("reward", "policy_loss", "ppo_kl"))
    assert means["actor_lr"] == 1e-3


MESHES = ("4,1,1", "2,2,1", "2,1,2", "1,2,2")


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """By mesh, what each of four gloo ranks measures; they take longest to start."""
    folder = tmp_path_factory.mktemp("ranks")
    worker = Path(__file__).with_name("data_ranks.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        subprocess.Popen([sys.executable, worker, str(rank), folder, *MESHES], env=environment)
        for rank in range(4)
    ]
    assert [rank.wait(timeout=120) for rank in ranks] == [0] * 4
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(4)]


@pytest.mark.parametrize("mesh", MESHES)
def test_copies_of_a_sample_count_once(mesh: str, by_rank: list[dict]) -> None:
    """Of OpenRLHF's meshes: data, ring attention, tensor parallel."""
    data = int(mesh[0])
    for measured in by_rank:
        metrics = measured[mesh]
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
        for name in ("reward", "kl"):  # by sample, and by token: 3 of each sample
            assert metrics[name] == pytest.approx(drift, abs=1e-6)
