"""Our losses in the shape that OpenRLHF calls."""

import pytest
import torch

from vespo_openrlhf.bridge.loss import PolicyLossAdapter, build_loss
from vespo_openrlhf.losses import LossInputs, get_policy_loss

VESPO = {
    "actor.policy_loss_type": "vespo",
    "actor.loss_agg_mode": "token-mean",
    "vespo.c1_pos": 2.0,
    "vespo.c2_pos": 3.0,
    "vespo.c1_neg": 3.0,
    "vespo.c2_neg": 2.0,
}


def micro_batch(seed: int, rows: int = 3, columns: int = 5) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    rollout = -torch.rand(rows, columns)
    return {
        "log_probs": (rollout + 0.1 * torch.randn(rows, columns)).requires_grad_(),
        "old_log_probs": rollout + 0.05,
        "advantages": torch.randn(rows, 1).expand(rows, columns),
        "action_mask": (torch.arange(columns) < columns - 1).expand(rows, columns).float(),
        "rollout_log_probs": rollout,
    }


def call(adapter: PolicyLossAdapter, batch: dict[str, torch.Tensor]) -> tuple:
    """As `ActorPPOTrainer.training_step` calls it: three by position, the rest by name."""
    first = [batch[name] for name in ("log_probs", "old_log_probs", "advantages")]
    rest = {name: batch[name] for name in ("action_mask", "rollout_log_probs")}
    return adapter(*first, **rest, dp_size=1, batch_num_tokens=None, global_batch_size=None)


def test_the_first_result_is_the_loss_itself() -> None:
    batch = micro_batch(0)
    loss, clip_ratio, ppo_kl, vllm_kl, is_filter_ratio = call(
        PolicyLossAdapter(build_loss(VESPO)), batch
    )
    expected, _ = get_policy_loss("vespo")(LossInputs(**batch))
    assert loss == expected
    assert clip_ratio == 0
    assert is_filter_ratio == 0
    kept = batch["action_mask"].bool()
    drift = (batch["old_log_probs"] - batch["log_probs"])[kept].mean()
    torch.testing.assert_close(ppo_kl, drift.detach())
    torch.testing.assert_close(vllm_kl, torch.tensor(-0.05))
    assert not any(t.requires_grad for t in (clip_ratio, ppo_kl, vllm_kl, is_filter_ratio))


def test_metrics_cover_every_micro_batch_since_the_last_drain() -> None:
    adapter = PolicyLossAdapter(build_loss(VESPO))
    batches = [micro_batch(seed) for seed in range(4)]
    for batch in batches:
        call(adapter, batch)
    metrics = adapter.drain()
    log_w = torch.cat(
        [
            ((b["log_probs"] - b["rollout_log_probs"]) * b["action_mask"]).sum(-1).detach()
            for b in batches
        ]
    )
    assert metrics["vespo/log_w_mean"] == pytest.approx(log_w.mean().item(), abs=1e-6)
    assert metrics["vespo/log_w_max"] == pytest.approx(log_w.max().item(), abs=1e-6)
    assert metrics["vespo/log_w_std"] == pytest.approx(log_w.std(correction=0).item(), abs=1e-6)
    counted = [metrics[f"vespo/num_{sign}"] for sign in ("positive", "negative", "zero")]
    assert sum(counted) == len(log_w)


def test_a_drain_without_a_call_says_that_the_seam_moved() -> None:
    with pytest.raises(RuntimeError, match="policy-loss seam"):
        PolicyLossAdapter(build_loss(VESPO)).drain()


def test_missing_rollout_log_probs_name_the_flag_that_brings_them() -> None:
    batch = micro_batch(0) | {"rollout_log_probs": None}
    with pytest.raises(ValueError, match=r"--algo\.advantage\.is_correction_level token"):
        call(PolicyLossAdapter(build_loss(VESPO)), batch)


def test_a_users_loss_needs_no_metrics_of_ours(tmp_path) -> None:
    own = tmp_path / "own.py"
    own.write_text("def plain(inputs):\n    return -inputs.log_probs.mean(), {}\n")
    loss = build_loss(VESPO | {"actor.policy_loss_type": f"{own}:plain"})
    adapter = PolicyLossAdapter(loss)
    call(adapter, micro_batch(0))
    metrics = adapter.drain()
    assert adapter.name == "plain"
    assert metrics["plain/num_positive"] + metrics["plain/num_negative"] == 3


@pytest.mark.parametrize("name", ["sapo", "gspo", "cispo", "topr", "reinforce"])
def test_rivals_take_the_same_flags(name: str) -> None:
    adapter = PolicyLossAdapter(build_loss(VESPO | {"actor.policy_loss_type": name}))
    loss, *_ = call(adapter, micro_batch(0))
    assert torch.isfinite(loss)
    assert f"{name}/num_positive" in adapter.drain()
