"""OpenRLHF's model actors with ours in them: policy, critic, reference. In Ray, one per rank.

OpenRLHF builds its trainer, and the trainer its loss, inside the worker; so the worker is where
the loss is exchanged, and where it is proved that it was.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import deepspeed
import torch
from openrlhf.models import PolicyLoss
from openrlhf.trainer.ray import launcher, ppo_actor, ppo_critic
from openrlhf.utils.loss_utils import iter_grad_accum_global_norm
from tqdm import tqdm

from vespo_openrlhf.bridge import collector
from vespo_openrlhf.bridge.flags import flatten
from vespo_openrlhf.bridge.loss import build_loss, distillation, teaches_fully, uses_our_loss
from vespo_openrlhf.bridge.rank import checkpoint, head, learning_rate
from vespo_openrlhf.bridge.rank.guard import NonFiniteGuard
from vespo_openrlhf.bridge.rank.loss_adapter import PolicyLossAdapter, Teacher
from vespo_openrlhf.bridge.rank.replay import PolicyReplay
from vespo_openrlhf.bridge.rank.sample_metrics import SampleMetrics
from vespo_openrlhf.bridge.rank.update_metrics import UPDATES, UpdateMetrics, finite_means
from vespo_openrlhf.bridge.roles import teacher_model
from vespo_openrlhf.bridge.rules.moe import replays
from vespo_openrlhf.bridge.samples.mini_batches import micro_batches
from vespo_openrlhf.bridge.seams import SeamError, plain_class
from vespo_openrlhf.bridge.weights.sender import Sent, WeightPublisher
from vespo_openrlhf.bridge.wire import RoutedExperts, TrainingExperience, fetched
from vespo_openrlhf.replaced import replaced


class PolicyTrainer(ppo_actor.ActorPPOTrainer):
    """`ActorPPOTrainer` with our loss, unless the run asks for OpenRLHF's own, and a guard.

    It trains its replay buffer in the order it was filled, which the scheduler has planned.

    Raises:
        SeamError: OpenRLHF keeps its loss somewhere else.
    """

    #: Where the engine's choice of experts is replayed.
    replay: PolicyReplay | None = None

    def __init__(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        # Without engines it makes no process group with them: the publisher does, of those alive.
        super().__init__(strategy, *args, **kwargs | {"vllm_engines": None})
        self.publisher = WeightPublisher(self)
        flags = flatten(strategy.args)
        if not isinstance(getattr(self, "actor_loss_fn", None), PolicyLoss):
            raise SeamError(
                "OpenRLHF has moved a seam we plug into (policy loss): its trainer holds no "
                "PolicyLoss in actor_loss_fn"
            )
        self._guard = NonFiniteGuard(
            flags["vespo.on_nonfinite"], Path(flags["ckpt.path"]), strategy.get_rank()
        )
        self._data_ranks = strategy.ds_device_mesh["dp"].get_group()
        self.policy_loss: PolicyLossAdapter | None = None
        if uses_our_loss(flags):
            self.policy_loss = PolicyLossAdapter(
                build_loss(flags), self._data_ranks, distillation(flags)
            )
            strategy.print(f"policy loss in place: {self.policy_loss.name}")
        self._updates = UpdateMetrics(strategy.accumulated_gradient, self._data_ranks)
        self.actor_loss_fn: Any = self._guard.watched(
            self._updates.watched(self.policy_loss or self.actor_loss_fn)
        )
        self._loss_name = flags["actor.policy_loss_type"].rpartition(":")[2]
        # The last moment before DeepSpeed takes a step is within `training_step`: without, a broken
        # gradient would be in the weights before anybody has looked.
        self._upstream_step = strategy.optimizer_step
        strategy.optimizer_step = self._optimizer_step
        self._ended: float | None = None  # the gradient norm of the update that has just ended
        self._num_skipped = 0
        self._sample_metrics = SampleMetrics()
        if replays(flags):
            self.replay = PolicyReplay(self.actor)

    def ppo_train(self, kl_ctl: float) -> dict[str, Any]:
        """Train what the replay buffer holds; OpenRLHF's metrics and ours.

        In the place of OpenRLHF's loop, which shuffles the buffer, so that a sample would be
        trained in another update than its lag is counted for, leaves out a short last batch, and
        averages its metrics over ranks one by one, a wait for the device each.

        Raises:
            RuntimeError: OpenRLHF took its steps without calling our loss.
            NonFiniteError: an update was stopped.
        """
        device, strategy = torch.cuda.current_device(), self.strategy
        dynamic = self.args.train.dynamic_batch_enable
        if dynamic:
            self.replay_buffer.setup_dynamic_batch(strategy)
        batches = tqdm(
            micro_batches(self.replay_buffer), desc="Train", disable=not strategy.is_rank_0()
        )
        # With the tokens of its update, by which the loss is divided; `training_step` looks up
        # those of a dynamic batch itself.
        steps = (
            ((batch, None) for batch in batches)
            if dynamic
            else iter_grad_accum_global_norm(
                batches, strategy, strategy.accumulated_gradient, lambda batch: batch.action_mask
            )
        )
        for step, (batch, normalisation) in enumerate(steps):
            self.training_step(batch.to_device(device), kl_ctl, step, normalisation)
        return self._drain()

    def _drain(self) -> dict[str, Any]:
        """The metrics of the updates just made, over all data-parallel ranks."""
        status: dict[str, Any] = self._sample_metrics.drain(self._data_ranks)
        updates = self._updates.drain()
        means = finite_means(updates)
        means.pop("grad_norm", None)
        status |= means
        if self.policy_loss is not None:
            status |= self.policy_loss.drain()
        # NaN, where every update was left out, does not count in the means over steps.
        norms = [u["grad_norm"] for u in updates if math.isfinite(u["grad_norm"])] or [math.nan]
        status |= {
            f"{self._loss_name}/grad_norm_mean": sum(norms) / len(norms),
            f"{self._loss_name}/grad_norm_max": max(norms),
            f"{self._loss_name}/num_skipped_updates": float(self._num_skipped),
        }
        self._num_skipped = 0
        if self.strategy.is_rank_0():  # all ranks know the same
            status[UPDATES] = self._described(updates)
        return status

    def _described(self, updates: list[dict[str, float]]) -> list[dict[str, float]]:
        """Each update with what our loss measured in it, under the names of `metrics.jsonl`."""
        own = self.policy_loss.by_update() if self.policy_loss else [{} for _ in updates]
        return [
            {f"{self._loss_name}/grad_norm" if n == "grad_norm" else n: v for n, v in u.items()} | o
            for u, o in zip(updates, own, strict=True)
        ]

    def training_step(self, experience: TrainingExperience, *args: Any, **kwargs: Any) -> Any:
        """OpenRLHF's forward and backward pass, watched: what it saw, and whether it ended an
        update."""
        self._guard.watch(experience)
        assert experience.lag is not None
        facts = {"lag": experience.lag}
        with contextlib.ExitStack() as stack:
            if self.replay is not None:
                facts["experts_differ"] = stack.enter_context(self.replay.armed(experience))
            if self.policy_loss is not None:
                teacher = stack.enter_context(self._taught(experience))
                self.policy_loss.note(turns=experience.turns, teacher=teacher, **facts)
            status = super().training_step(experience, *args, **kwargs)
        self._updates.take(status["metrics"])
        if self._ended is not None:
            self._updates.end_update(self._ended)
            self._ended = None
        self._sample_metrics.take(status, experience.action_mask)
        return status

    @contextlib.contextmanager
    def _taught(self, experience: TrainingExperience) -> Iterator[Teacher | None]:
        """Within, the policy is compared with its teacher on this batch, and on no other.

        Yields:
            What gives the loss the teacher's opinion, once the policy is computed.
        """
        told, states = experience.base_action_log_probs, experience.teacher_states
        if states is None:
            yield None if told is None else lambda: (None, told)
            return
        self.actor.teacher_states = states
        try:
            yield lambda: self.actor.taught
        finally:
            self.actor.teacher_states = self.actor.taught = None

    def _optimizer_step(self, optimizer: Any, model: Any, *args: Any, **kwargs: Any) -> None:
        """The strategy's `optimizer_step`, which DeepSpeed wants for every micro-batch."""
        step = functools.partial(self._upstream_step, optimizer, model, *args, **kwargs)
        engine = model.model
        if not engine.is_gradient_accumulation_boundary():
            step()
            return
        factor = self.policy_loss.step_scale() if self.policy_loss is not None else 1.0
        with learning_rate.scaled(engine.optimizer, factor):
            taken = self._guard.take_step(engine, step)
        if taken:
            self._ended = float(self.strategy.get_grad_norm(model))
        else:
            self._ended = math.nan
            self._num_skipped += 1
        if self.policy_loss is not None:
            self.policy_loss.end_update()


class PolicyActor(plain_class(ppo_actor.PolicyModelActor)):  # type: ignore[misc]
    """`PolicyModelActor` around our trainer."""

    def init_model_from_pretrained(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        checkpoint.install(strategy)
        # OpenRLHF's method builds both by these names of its module, and takes no others. Without,
        # its own loss would be trained, unwatched, and whole logits be made for it.
        with (
            replaced(ppo_actor, ActorPPOTrainer=PolicyTrainer),
            replaced(ppo_actor, Actor=head.actor_class(strategy)),
        ):
            super().init_model_from_pretrained(strategy, *args, **kwargs)
        if not isinstance(self.trainer, PolicyTrainer):
            raise SeamError(
                "OpenRLHF has moved a seam we plug into (policy actor): its actor no longer "
                "builds ppo_actor.ActorPPOTrainer"
            )
        collector.settle()

    def forward(
        self,
        sequences: torch.Tensor,
        action_mask: torch.Tensor,
        attention_mask: torch.Tensor,
        *args: Any,
        routed_experts: Sequence[RoutedExperts] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """OpenRLHF's, with the experts that each sample's tokens are to take."""
        with contextlib.ExitStack() as stack:
            if routed_experts is not None and self.trainer.replay is not None:
                whole = TrainingExperience(
                    sequences, attention_mask, action_mask, routed_experts=fetched(routed_experts)
                )
                stack.enter_context(self.trainer.replay.armed(whole))
            log_probs: torch.Tensor = super().forward(
                sequences, action_mask, attention_mask, *args, **kwargs
            )
        return log_probs

    def append(self, experience: list[Any]) -> None:
        """Take the items of a `Share`, which upstream would have padded into one batch first."""
        self.trainer.replay_buffer.items += experience

    def take_teachers_head(self, weight: torch.Tensor) -> None:
        """(V, E), of the teacher's output layer."""
        self.trainer.actor.teacher_weight = weight.to(torch.cuda.current_device())

    def publish(self, names: Sequence[str], engines: list[Any]) -> Sent:
        """Give the weights to these engines."""
        return self.trainer.publisher.publish(names, engines)

    def score(
        self, sequences: list[list[int]], routed_experts: list[torch.Tensor] | None = None
    ) -> list[list[float]]:
        """The log-probs of every token but the first, at temperature 1. Every rank takes part."""
        length = max(map(len, sequences))
        tokens = torch.full((len(sequences), length), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(tokens)
        for row, sequence in enumerate(sequences):
            tokens[row, : len(sequence)] = torch.tensor(sequence)
            mask[row, : len(sequence)] = 1
        temperature, self.actor.temperature = self.actor.temperature, 1.0
        try:
            log_probs = self.forward(tokens, mask[:, 1:], mask, routed_experts=routed_experts)
        finally:
            self.actor.temperature = temperature
        return [
            row[: len(sequence) - 1].tolist()
            for row, sequence in zip(log_probs, sequences, strict=True)
        ]


class CriticActor(plain_class(ppo_critic.CriticModelActor)):  # type: ignore[misc]
    """`CriticModelActor` that takes what the policy takes: its checkpoint and its samples."""

    def init_model_from_pretrained(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        # Without, it would load what its own `latest` names, of another step than the policy's.
        checkpoint.install(strategy)
        super().init_model_from_pretrained(strategy, *args, **kwargs)

    def append(self, experience: list[Any]) -> None:
        """Take the items of a `Share`, as the policy does."""
        self.trainer.replay_buffer.items += experience


class ReferenceActor(plain_class(launcher.ReferenceModelActor)):  # type: ignore[misc]
    """`ReferenceModelActor` around our actor; the teacher, where there is one."""

    def init_model_from_pretrained(self, strategy: Any, pretrain: str) -> None:
        # Built by this name of OpenRLHF's module: without, by its class, which makes whole logits.
        with replaced(launcher, Actor=head.actor_class(strategy)):
            flags = flatten(strategy.args)
            super().init_model_from_pretrained(strategy, teacher_model(flags) or pretrain)
        self.model.tells_states = teaches_fully(flags)

    def output_weight(self) -> torch.Tensor:
        """(V, E) of the output layer. Every rank takes part."""
        model = getattr(self.model.model, "module", self.model.model)
        weight = model.get_output_embeddings().weight
        with deepspeed.zero.GatheredParameters([weight], enabled=hasattr(weight, "ds_id")):
            return weight.detach().cpu().clone()
