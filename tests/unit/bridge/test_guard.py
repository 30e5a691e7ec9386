"""What the guard says and keeps of a broken step. Its dealings with DeepSpeed's own engine are in
tests/integration/test_guard.py; here a model of torch's stands in for it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vespo_openrlhf.bridge.rank.guard import NonFiniteError, NonFiniteGuard


class Engine:
    """What the guard asks of a DeepSpeed engine without ZeRO."""

    def __init__(self, *, fp16: bool = False) -> None:
        self.module = torch.nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.module.parameters(), lr=0.1)
        self.global_steps = 0
        self.fp16 = fp16
        self.applied = False

    def fp16_enabled(self) -> bool:
        return self.fp16

    def zero_optimization(self) -> bool:
        return False

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.applied = not getattr(self.optimizer, "overflow", False)
        self.global_steps += 1

    def was_step_applied(self) -> bool:
        return self.applied


def experience(advantage: float = 1.0) -> SimpleNamespace:
    ones = torch.ones(2, 3)
    advantages = ones.clone()
    advantages[1] = advantage
    return SimpleNamespace(
        action_mask=ones,
        advantages=advantages,
        rollout_log_probs=-ones,
        action_log_probs=None,
        prompts=["1+1=", "2+2="],
    )


def update(guard: NonFiniteGuard, engine: Engine, loss: float, advantage: float = 1.0) -> bool:
    guard.watch(experience(advantage))
    guard.note_loss(torch.tensor(loss))
    (engine.module(torch.ones(1, 2)) * loss).sum().backward()
    return guard.take_step(engine, engine.step)


def test_finite_updates_pass_and_leave_nothing(tmp_path: Path) -> None:
    guard, engine = NonFiniteGuard("stop", tmp_path, 0), Engine()
    assert all(update(guard, engine, 0.5) for _ in range(3))
    assert not list(tmp_path.iterdir())


def test_a_broken_loss_stops_before_the_step_and_names_its_samples(tmp_path: Path) -> None:
    guard, engine = NonFiniteGuard("stop", tmp_path, 0), Engine()
    engine.global_steps = 70  # goes on counting after a resume
    update(guard, engine, 0.5)
    with pytest.raises(NonFiniteError, match="loss of update 71 is not finite") as error:
        update(guard, engine, float("nan"), advantage=float("nan"))
    assert "row 1 '2+2='" in str(error.value)
    assert "row 0" not in str(error.value)
    saved = torch.load(tmp_path / "nonfinite_update71_rank0.pt", weights_only=False)
    assert saved["batches"][0]["advantages"][1].isnan().all()
    assert engine.global_steps == 71


def test_a_broken_gradient_stops_too(tmp_path: Path) -> None:
    guard, engine = NonFiniteGuard("stop", tmp_path, 0), Engine()
    guard.watch(experience())
    guard.note_loss(torch.tensor(0.5))
    engine.module.weight.grad = torch.full_like(engine.module.weight, torch.inf)
    with pytest.raises(NonFiniteError, match="gradient norm of update 0"):
        guard.take_step(engine, engine.step)


def test_skipping_leaves_the_weights_as_they_were(tmp_path: Path, capsys) -> None:
    guard, engine = NonFiniteGuard("skip", tmp_path, 0), Engine()
    before = engine.module.weight.clone()
    assert not update(guard, engine, float("inf"))
    assert torch.equal(engine.module.weight, before)
    assert "left out" in capsys.readouterr().out
    assert update(guard, engine, 0.5)
    assert not torch.equal(engine.module.weight, before)


def test_what_overflows_in_fp16_is_for_deepspeeds_loss_scale(tmp_path: Path) -> None:
    guard, engine = NonFiniteGuard("stop", tmp_path, 0), Engine(fp16=True)
    engine.optimizer.overflow = True
    guard.watch(experience())
    guard.note_loss(torch.tensor(0.5))
    engine.module.weight.grad = torch.full_like(engine.module.weight, torch.inf)
    assert not guard.take_step(engine, engine.step)
    assert not list(tmp_path.iterdir())


def test_openrlhfs_own_loss_is_watched_as_ours_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--vespo.anchor old` with ppo or gspo. OpenRLHF's trainer is built without its models."""
    from openrlhf.models import PolicyLoss
    from openrlhf.trainer.ray import ppo_actor

    from vespo_openrlhf.bridge import actor

    def build(self: Any, strategy: Any, **_: Any) -> None:
        self.strategy, self.actor_loss_fn = strategy, PolicyLoss()

    monkeypatch.setattr(ppo_actor.ActorPPOTrainer, "__init__", build)
    monkeypatch.setattr(actor, "WeightPublisher", lambda trainer: None)
    flags = {
        "actor": SimpleNamespace(policy_loss_type="ppo"),
        "vespo": SimpleNamespace(anchor="old", on_nonfinite="skip"),
        "moe": SimpleNamespace(routing_replay="off"),
        "ckpt": SimpleNamespace(path=str(tmp_path)),
    }
    engine = Engine()
    engine.is_gradient_accumulation_boundary = lambda: True
    strategy = SimpleNamespace(
        args=SimpleNamespace(**flags),
        get_rank=lambda: 0,
        accumulated_gradient=1,
        get_grad_norm=lambda model: 1.0,
        ds_device_mesh={"dp": SimpleNamespace(get_group=lambda: None)},
        optimizer_step=lambda optimizer, model, scheduler, **_: model.model.step(),
    )
    trainer = actor.PolicyTrainer(strategy)
    before = engine.module.weight.clone()
    for advantage, made in ((float("nan"), False), (1.0, True)):
        sample = experience(advantage)
        trainer._guard.watch(sample)
        loss, *_ = trainer.actor_loss_fn(
            -sample.action_mask, -sample.action_mask, sample.advantages, sample.action_mask
        )
        (engine.module(torch.ones(1, 2)) * loss).sum().backward()
        strategy.optimizer_step(None, SimpleNamespace(model=engine), None, name="actor")
        assert torch.equal(engine.module.weight, before) != made
    assert trainer._num_skipped == 1
    assert trainer._ended == 1.0
    assert len(list(tmp_path.glob("nonfinite_update*_rank0.pt"))) == 1
