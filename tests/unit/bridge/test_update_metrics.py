"""What is logged of each optimizer update, and where."""

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vespo_openrlhf.bridge.rank.loss_adapter import PolicyLossAdapter
from vespo_openrlhf.bridge.rank.update_metrics import UpdateMetrics, finite_means
from vespo_openrlhf.bridge.run.records import UpdateLog
from vespo_openrlhf.losses import get_policy_loss

Batch = dict[str, torch.Tensor]


def micro_batch(seed: int, lengths: tuple[int, ...] = (5, 2, 3)) -> Batch:
    torch.manual_seed(seed)
    rows, columns = len(lengths), max(5, *lengths)
    rollout = -torch.rand(rows, columns)
    return {
        "log_probs": (rollout + 0.1 * torch.randn(rows, columns)).requires_grad_(),
        "old_log_probs": rollout + 0.05,
        "advantages": torch.randn(rows, 1).expand(rows, columns),
        "action_mask": torch.arange(columns) < torch.tensor(lengths)[:, None],
        "rollout_log_probs": rollout,
    }


def join(batches: list[Batch]) -> Batch:
    return {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


def train(metrics: UpdateMetrics, adapter: PolicyLossAdapter, update: list[Batch]) -> list[Any]:
    """The micro-batches of an update, with the totals that OpenRLHF gives each of them."""
    gas = len(update)
    totals = {
        "dp_size": 1,
        "batch_num_tokens": sum(b["action_mask"].sum() for b in update).float() / gas,
        "global_batch_size": sum(b["action_mask"].any(-1).sum() for b in update).float() / gas,
    }
    watched = metrics.watched(adapter)
    results = []
    for batch in update:
        first = [batch[name] for name in ("log_probs", "old_log_probs", "advantages")]
        rest = {name: batch[name] for name in ("action_mask", "rollout_log_probs")}
        results.append(watched(*first, **rest, **totals))
        metrics.take({"entropy_loss": batch["action_mask"].sum() / totals["batch_num_tokens"]})
    metrics.end_update(float(gas))
    adapter.end_update()
    return results


def test_an_update_is_measured_as_if_it_were_one_micro_batch() -> None:
    """Whatever it was split into: loss, entropy, KL and log-perplexity are those of the whole."""
    updates = [[micro_batch(0), micro_batch(1, (9, 1))], [micro_batch(2), micro_batch(3, (2, 7))]]
    found = []
    for parts in (updates, [[join(_padded(u))] for u in updates]):
        metrics = UpdateMetrics(len(parts[0]))
        adapter = PolicyLossAdapter(get_policy_loss("vespo"))
        for update in parts:
            train(metrics, adapter, update)
        rows = metrics.drain()
        adapter.drain()
        found.append([row | own for row, own in zip(rows, adapter.by_update(), strict=True)])
    for split, whole in zip(*found, strict=True):
        assert split.pop("grad_norm") == 2.0
        assert whole.pop("grad_norm") == 1.0
        assert split == pytest.approx(whole, rel=1e-5)
        assert split["entropy_loss"] == pytest.approx(1.0)  # 1 nat a token
    assert found[0][0]["vespo/log_w_mean"] != found[0][1]["vespo/log_w_mean"]


def _padded(update: list[Batch]) -> list[Batch]:
    width = max(batch["log_probs"].shape[1] for batch in update)
    return [
        {n: torch.nn.functional.pad(t, (0, width - t.shape[1])) for n, t in batch.items()}
        for batch in update
    ]


def test_kl_and_log_perplexity_of_the_rollout_by_hand() -> None:
    metrics = UpdateMetrics()
    watched = metrics.watched(lambda *a, **k: (torch.tensor(0.5), *[torch.zeros(())] * 4))
    mu = torch.tensor([[-1.0, -2.0, 99.0], [-4.0, 99.0, 99.0], [math.nan, -1.0, -1.0]])
    pi = torch.tensor([[-1.5, -2.5, 0.0], [-3.0, 0.0, 0.0], [-1.0, -1.0, -1.0]])
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 0]])
    watched(pi, pi, pi, action_mask=mask, rollout_log_probs=mu)
    metrics.end_update(2.0)
    (update,) = metrics.drain()
    assert update == {
        "policy_loss": 0.5,
        "ppo_clip_ratio": 0.0,
        "ppo_kl": 0.0,
        "rollout_kl": pytest.approx((0.5 + 0.5 - 1.0) / 3),  # over tokens
        "rollout_log_ppl": pytest.approx((1.5 + 4.0) / 2),  # over sequences
        "grad_norm": 2.0,
    }
    assert metrics.drain() == []


def test_a_run_without_rollout_log_probs_or_entropy_has_neither() -> None:
    metrics = UpdateMetrics()
    nan, zero = torch.tensor(math.nan), torch.zeros(())
    watched = metrics.watched(lambda *a, **k: (zero, nan, nan, None, None))
    ones = torch.ones(1, 2)
    watched(ones, ones, ones, action_mask=0 * ones)  # no token: OpenRLHF's means are nan
    metrics.end_update(math.nan)
    (update,) = metrics.drain()
    assert list(update) == ["policy_loss", "ppo_clip_ratio", "ppo_kl", "grad_norm"]
    assert math.isnan(update["ppo_kl"])
    assert math.isnan(update["grad_norm"])


def test_the_mean_over_updates_is_the_batchs() -> None:
    """With equally many sequences in each update, of every mean over sequences."""
    metrics, adapter = UpdateMetrics(2), PolicyLossAdapter(get_policy_loss("ppo"))
    for seed in range(0, 8, 2):
        train(metrics, adapter, [micro_batch(seed), micro_batch(seed + 1)])
    whole = adapter.drain()
    means = finite_means(adapter.by_update())
    for name in ("log_w_mean", "log_w_abs_mean", "clip_ratio"):
        assert means[f"ppo/{name}"] == pytest.approx(whole[f"ppo/{name}"], rel=1e-5), name
    assert len(metrics.drain()) == 4


def test_means_leave_out_what_is_not_finite() -> None:
    assert finite_means([{"a": 1.0, "b": math.nan}, {"a": math.inf, "b": math.nan}]) == (
        pytest.approx({"a": 1.0, "b": math.nan}, nan_ok=True)
    )
    assert finite_means([]) == {}


def test_no_micro_batch_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, adapter = UpdateMetrics(), PolicyLossAdapter(get_policy_loss("topr"))
    update = [micro_batch(0), micro_batch(1)]

    def refuse(self: torch.Tensor, *args: object) -> None:
        raise AssertionError("a wait for the device in a micro-batch")

    with monkeypatch.context() as patched:
        for name in ("item", "tolist", "cpu", "__bool__", "__float__", "__int__"):
            patched.setattr(torch.Tensor, name, refuse)
        train(metrics, adapter, update)
    assert len(metrics.drain()) == 1


class Recorder:
    """TensorBoard's writer and wandb's module, as far as they are used."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def add_scalar(self, name: str, value: float, step: int) -> None:
        self.calls.append((name, value, step))

    def log(self, values: dict[str, float]) -> None:
        self.calls.append((values,))

    def define_metric(self, name: str, **options: Any) -> None:
        self.calls.append((name, options))


def test_a_line_an_update(tmp_path: Path) -> None:
    board, service = Recorder(), Recorder()
    log = UpdateLog(
        tmp_path / "updates.jsonl", SimpleNamespace(writer=board), SimpleNamespace(handle=service)
    )
    log.log(8, 3, 0, [{"policy_loss": 0.5, "vespo/grad_norm": math.nan}, {"policy_loss": 0.25}])
    log.log(10, 3, 2, [{"policy_loss": 1.0}])
    log.log(11, 3, 3, [])
    lines = [json.loads(line) for line in (tmp_path / "updates.jsonl").read_text().splitlines()]
    assert lines == [
        {"update": 8, "step": 3, "mini_batch": 0, "policy_loss": 0.5, "vespo/grad_norm": None},
        {"update": 9, "step": 3, "mini_batch": 1, "policy_loss": 0.25},
        {"update": 10, "step": 3, "mini_batch": 2, "policy_loss": 1.0},
    ]
    assert board.calls == [
        ("update/policy_loss", 0.5, 8),
        ("update/policy_loss", 0.25, 9),
        ("update/policy_loss", 1.0, 10),
    ]
    assert service.calls[2:] == [
        ({"update/policy_loss": 0.5, "update/number": 8},),
        ({"update/policy_loss": 0.25, "update/number": 9},),
        ({"update/policy_loss": 1.0, "update/number": 10},),
    ]
    UpdateLog(None).log(0, 1, 0, [{"policy_loss": 1.0}])  # none of them is there
