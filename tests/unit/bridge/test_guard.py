"""The guard before the optimizer step, on a model of torch's with DeepSpeed's two methods."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from vespo_openrlhf.bridge.guard import NonFiniteError, NonFiniteGuard


class Engine:
    """What the guard asks of a DeepSpeed engine: its module, and whether it took the step."""

    def __init__(self) -> None:
        self.module = torch.nn.Linear(2, 1)
        self.applied = True

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


def update(guard: NonFiniteGuard, engine: Engine, loss: float, advantage: float = 1.0) -> None:
    guard.watch(experience(advantage))
    guard.note_loss(torch.tensor(loss))
    (engine.module(torch.ones(1, 2)) * loss).sum().backward()
    guard.before_step(engine)
    guard.after_step(engine)


def test_finite_updates_pass_and_leave_nothing(tmp_path: Path) -> None:
    guard, engine = NonFiniteGuard("stop", tmp_path, 0), Engine()
    for _ in range(3):
        update(guard, engine, 0.5)
    assert guard.num_skipped == 0
    assert not list(tmp_path.iterdir())


def test_a_broken_loss_stops_before_the_step_and_names_its_samples(tmp_path: Path) -> None:
    guard, engine = NonFiniteGuard("stop", tmp_path, 0), Engine()
    update(guard, engine, 0.5)
    with pytest.raises(NonFiniteError, match="loss of update 1 is not finite") as error:
        update(guard, engine, float("nan"), advantage=float("nan"))
    assert "row 1 '2+2='" in str(error.value)
    assert "row 0" not in str(error.value)
    saved = torch.load(tmp_path / "nonfinite_update1_rank0.pt", weights_only=False)
    assert saved["batches"][0]["advantages"][1].isnan().all()


def test_a_broken_gradient_stops_too(tmp_path: Path) -> None:
    guard, engine = NonFiniteGuard("stop", tmp_path, 0), Engine()
    guard.watch(experience())
    guard.note_loss(torch.tensor(0.5))
    engine.module.weight.grad = torch.full_like(engine.module.weight, torch.inf)
    with pytest.raises(NonFiniteError, match="gradient norm of update 0"):
        guard.before_step(engine)


def test_skipping_leaves_the_update_without_a_gradient(tmp_path: Path, capsys) -> None:
    guard, engine = NonFiniteGuard("skip", tmp_path, 0), Engine()
    update(guard, engine, float("inf"))
    assert all(p.grad is None for p in engine.module.parameters())
    assert guard.num_skipped == 1
    assert "left out" in capsys.readouterr().out
    update(guard, engine, 0.5)
    assert guard.num_skipped == 1


def test_a_step_that_deepspeed_left_out_is_reported(tmp_path: Path) -> None:
    guard, engine = NonFiniteGuard("stop", tmp_path, 0), Engine()
    engine.applied = False
    with pytest.raises(NonFiniteError, match="DeepSpeed left the step out"):
        update(guard, engine, 0.5)
