"""Our training loop and OpenRLHF's step around our loss, over a stand-in for the model."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vespo_openrlhf.bridge.actor import PolicyTrainer
from vespo_openrlhf.bridge.rank.guard import NonFiniteGuard
from vespo_openrlhf.bridge.rank.loss_adapter import PolicyLossAdapter
from vespo_openrlhf.bridge.rank.sample_metrics import SampleMetrics
from vespo_openrlhf.bridge.rank.update_metrics import UPDATES, UpdateMetrics
from vespo_openrlhf.bridge.wire import TrainingExperience
from vespo_openrlhf.losses import get_policy_loss
from vespo_openrlhf.losses.distillation import DistillOptions

MICRO_BATCHES = 2
MU = -1.0


class Engine:
    """What is asked of DeepSpeed's, without ZeRO: a step for every second micro-batch."""

    def __init__(self, parameter: torch.nn.Parameter) -> None:
        self.module = torch.nn.ParameterList([parameter])
        self.optimizer = torch.optim.SGD([parameter], lr=0.1)
        self.global_steps = self.micro_steps = 0
        self.norm = 0.0

    def fp16_enabled(self) -> bool:
        return False

    def zero_optimization(self) -> bool:
        return False

    def is_gradient_accumulation_boundary(self) -> bool:
        return (self.micro_steps + 1) % MICRO_BATCHES == 0

    def step(self) -> None:
        if self.is_gradient_accumulation_boundary():
            (parameter,) = self.module
            self.norm = float(parameter.grad.norm())
            self.optimizer.step()
            self.applied = not getattr(self.optimizer, "overflow", False)
            self.optimizer.zero_grad()
            self.global_steps += 1
        self.micro_steps += 1

    def was_step_applied(self) -> bool:
        return self.applied


class Actor:
    """Every token has the log-prob `MU` plus the one parameter, and an entropy of its own."""

    is_vlm = False

    def __init__(self) -> None:
        self.parameter = torch.nn.Parameter(torch.zeros(()))
        self.model = Engine(self.parameter)

    def train(self) -> None:
        pass

    def __call__(self, sequences: torch.Tensor, mask: torch.Tensor, **options: Any) -> Any:
        entropy = sequences.float()  # what the test has put there
        return (MU + self.parameter).expand(mask.shape), SimpleNamespace(entropy=entropy)


def experience(length: int, entropy: int, advantage: float = 1.0) -> TrainingExperience:
    """A single sample, as it arrives."""
    ones = torch.ones(6)
    mask = torch.arange(6) < length
    return TrainingExperience(
        sequences=torch.full((6,), entropy),
        attention_mask=ones,
        action_mask=mask,
        action_log_probs=MU * ones,
        rollout_log_probs=MU * ones,
        advantages=advantage * ones,
        info={"reward": torch.tensor(1.0)},
        lag=torch.tensor(0.0),
    )


def trainer(tmp_path: Path, experiences: list[TrainingExperience]) -> PolicyTrainer:
    actor = Actor()
    made: Any = object.__new__(PolicyTrainer)
    made.args = SimpleNamespace(
        train=SimpleNamespace(dynamic_batch_enable=False),
        ds=SimpleNamespace(tensor_parallel_size=1),
        actor=SimpleNamespace(entropy_coef=0.0),
        algo=SimpleNamespace(kl=SimpleNamespace(use_loss=False)),
    )
    made.strategy = SimpleNamespace(
        ring_attn_group=None,
        accumulated_gradient=MICRO_BATCHES,
        is_rank_0=lambda: True,
        # As DeepSpeed, which divides by the micro-batches of an update.
        backward=lambda loss, *rest: (loss / MICRO_BATCHES).backward(),
        optimizer_step=made._optimizer_step,
        get_grad_norm=lambda model: model.model.norm,
    )
    made.actor, made.actor_optim, made.ema_model, made.aux_loss = actor, None, None, False
    made.actor_scheduler = SimpleNamespace(get_last_lr=lambda: [1e-6])
    made.replay_buffer = SimpleNamespace(
        items=experiences, sample_batch_size=1, dynamic_batch=False
    )
    made._guard = NonFiniteGuard("skip", tmp_path, 0)
    made._data_ranks, made._ended, made._num_skipped = None, None, 0
    made.policy_loss = PolicyLossAdapter(get_policy_loss("vespo"))
    made._updates = UpdateMetrics(MICRO_BATCHES)
    made.actor_loss_fn = made._guard.watched(made._updates.watched(made.policy_loss))
    made._loss_name = "vespo"
    made._upstream_step = lambda optimizer, model, *args, **kwargs: model.model.step()
    made._sample_metrics = SampleMetrics()
    return made


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "current_device", lambda: "cpu")


def test_every_update_has_its_metrics(tmp_path: Path) -> None:
    """Two updates of two micro-batches, of unequal lengths, with the entropies 1, 3 and 5, 5."""
    made = trainer(
        tmp_path, [experience(2, 1), experience(6, 3), experience(4, 5), experience(4, 5)]
    )
    status = made.ppo_train(0.0)
    first, second = status[UPDATES]
    # Over tokens; OpenRLHF weighs a micro-batch's share, 2 * 1 / 8 and 6 * 3 / 8, by its tokens.
    assert first["entropy_loss"] == pytest.approx((2 * 1 + 6 * 3) / 8)
    assert second["entropy_loss"] == pytest.approx(5.0)
    assert status["entropy_loss"] == pytest.approx((2.5 + 5.0) / 2)
    # -A log pi of every token: 1 before, and the parameter has moved by lr * 1 after.
    assert first["policy_loss"] == pytest.approx(1.0)
    assert first["vespo/grad_norm"] == pytest.approx(1.0)
    assert (first["rollout_kl"], first["vespo/log_w_mean"]) == (0.0, 0.0)
    assert second["rollout_kl"] == pytest.approx(-0.1)
    assert second["vespo/log_w_mean"] == pytest.approx(0.4)
    assert second["rollout_log_ppl"] == pytest.approx(1.0)
    for name in ("policy_loss", "rollout_kl", "rollout_log_ppl", "vespo/log_w_mean"):
        assert status[name] == pytest.approx((first[name] + second[name]) / 2), name
    assert status["vespo/grad_norm_max"] == 1.0
    assert status["vespo/grad_norm_max"] >= second["vespo/grad_norm"] > 0
    assert "grad_norm" not in status
    assert status["reward"] == 1.0


def test_an_update_that_is_left_out_keeps_its_place(tmp_path: Path) -> None:
    batches = [experience(2, 1, math.nan), experience(2, 1), experience(4, 5), experience(4, 5)]
    made = trainer(tmp_path, batches)
    status = made.ppo_train(0.0)
    first, second = status[UPDATES]
    assert math.isnan(first["policy_loss"])
    assert math.isnan(first["vespo/grad_norm"])
    assert second["policy_loss"] == status["policy_loss"] == pytest.approx(1.0)
    assert status["vespo/num_skipped_updates"] == 1
    assert status["vespo/grad_norm_mean"] == second["vespo/grad_norm"]


def test_only_rank_0_sends_its_updates(tmp_path: Path) -> None:
    made = trainer(tmp_path, [experience(2, 1), experience(2, 1)])
    made.strategy.is_rank_0 = lambda: False
    assert UPDATES not in made.ppo_train(0.0)


def test_turns_reach_the_loss(tmp_path: Path) -> None:
    """An update of one episode of two turns and of one of three."""
    batches = [experience(4, 1), experience(3, 1)]
    for item, turns in zip(batches, ([1, 1, 2, 2, 0, 0], [1, 2, 3, 0, 0, 0]), strict=True):
        item.turns = torch.tensor(turns)
    made = trainer(tmp_path, batches)
    assert made.ppo_train(0.0)["vespo/num_positive"] == 5


def test_a_teacher_is_asked_about_the_batch_that_is_trained_and_no_other(tmp_path: Path) -> None:
    """Between two steps the policy computes other batches, whose hidden states nobody has."""
    items = [experience(3, 1), experience(2, 1)]
    for item in items:
        item.teacher_states = torch.ones(6, 4)
    made = trainer(tmp_path, items)
    made.policy_loss = PolicyLossAdapter(
        get_policy_loss("vespo"), distillation=DistillOptions("a model")
    )
    made.actor_loss_fn = made._guard.watched(made._updates.watched(made.policy_loss))
    seen = []

    def call(self: Actor, sequences: torch.Tensor, mask: torch.Tensor, **options: Any) -> Any:
        seen.append(self.teacher_states.shape)
        log_probs = (MU + self.parameter).expand(mask.shape)
        self.taught = log_probs * 0 + 0.5, log_probs.detach() - 1
        return log_probs, SimpleNamespace(entropy=sequences.float())

    made.actor.__class__ = type("Taught", (Actor,), {"__call__": call})
    status = made.ppo_train(0.0)
    assert seen == [(1, 6, 4)] * 2
    assert made.actor.teacher_states is None
    assert status["vespo/teacher_kl"] == pytest.approx(0.5)
