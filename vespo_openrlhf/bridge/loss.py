"""A policy loss in the shape OpenRLHF calls: its arguments in, its five results out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from vespo_openrlhf import config
from vespo_openrlhf.bridge.seams import LOSS_RESULTS
from vespo_openrlhf.losses.diagnostics import sequence_metrics, summarise
from vespo_openrlhf.losses.inputs import LossInputs, masked_mean
from vespo_openrlhf.losses.registry import PolicyLoss, get_policy_loss, option_defaults

#: Losses that OpenRLHF brings itself; any other name is one of ours.
UPSTREAM_LOSSES = ("ppo", "gspo")


def uses_our_loss(flags: Mapping[str, Any]) -> bool:
    """Whether the run trains with a loss of this project rather than OpenRLHF's own."""
    return flags["actor.policy_loss_type"] not in UPSTREAM_LOSSES


class PolicyLossAdapter:
    """Stands where OpenRLHF's `PolicyLoss` stood, and keeps what the loss measured.

    Measurements stay on the device as they are made, one set per micro-batch; `drain` turns them
    into metrics once, when the optimizer steps of a rollout batch are done.
    """

    def __init__(self, loss: PolicyLoss) -> None:
        # A user's own loss is named by where it is found; its metrics by the function alone.
        self.name = loss.name.rpartition(":")[2]
        self._loss = loss
        self._measured: list[dict[str, torch.Tensor]] = []

    def __call__(
        self,
        log_probs: torch.Tensor,
        old_log_probs: torch.Tensor,
        advantages: torch.Tensor,
        action_mask: torch.Tensor,
        rollout_log_probs: torch.Tensor | None = None,
        dp_size: int = 1,
        batch_num_tokens: torch.Tensor | None = None,
        global_batch_size: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor | None, ...]:
        """OpenRLHF's call; every tensor is (B, A). Returns `seams.LOSS_RESULTS`, each 0-dim."""
        inputs = LossInputs(
            log_probs=log_probs,
            old_log_probs=old_log_probs,
            advantages=advantages,
            action_mask=action_mask,
            rollout_log_probs=rollout_log_probs,
            dp_size=dp_size,
            batch_num_tokens=batch_num_tokens,
            global_batch_size=global_batch_size,
        )
        loss, metrics = self._loss(inputs)
        if "num_tokens" not in metrics:  # a user's loss need not know our diagnostics
            metrics = sequence_metrics(inputs) | metrics
        self._measured.append(metrics)
        zero = torch.zeros((), device=log_probs.device)
        results: dict[str, torch.Tensor | None] = {
            "loss": loss,
            "clip_ratio": metrics.get("clip_ratio", zero),
            "ppo_kl": masked_mean(old_log_probs - log_probs.detach(), inputs.mask),
            "vllm_kl": None,
            "is_filter_ratio": None,
        }
        if rollout_log_probs is not None:
            results["vllm_kl"] = masked_mean(rollout_log_probs - old_log_probs, inputs.mask)
            results["is_filter_ratio"] = zero
        return tuple(results[name] for name in LOSS_RESULTS)

    def drain(self) -> dict[str, float]:
        """Metrics over every sequence seen since the last call, of all data-parallel ranks.

        Raises:
            RuntimeError: the loss was not called: OpenRLHF trained with another one.
        """
        if not self._measured:
            raise RuntimeError(
                f"the {self.name} loss is in place but was not called: OpenRLHF has moved the "
                "policy-loss seam (ActorPPOTrainer.actor_loss_fn)"
            )
        local = {
            name: torch.cat([torch.atleast_1d(m[name]) for m in self._measured]).cpu()
            for name in self._measured[0]
        }
        scalars = [name for name, value in self._measured[0].items() if value.dim() == 0]
        self._measured.clear()
        gathered = _gather(local)
        summary = summarise(gathered) | {name: gathered[name].mean() for name in scalars}
        return {f"{self.name}/{name}": value.item() for name, value in summary.items()}


def _gather(local: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Concatenate the ranks' vectors, whose lengths differ."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return local
    ranks: list[dict[str, torch.Tensor]] = [{} for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(ranks, local)
    return {name: torch.cat([rank[name] for rank in ranks]) for name in local}


def build_loss(flags: Mapping[str, Any]) -> PolicyLoss:
    """The loss that the flags (dotted names) select, with its options.

    Raises:
        ValueError: the name or an option of the loss is not one we know.
    """
    name = flags["actor.policy_loss_type"]
    if ":" in name:
        return get_policy_loss(name)
    options: dict[str, Any] = config.kernel_options(flags) if name == "vespo" else {}
    if "loss_agg_mode" in option_defaults(name):
        options["loss_agg_mode"] = flags["actor.loss_agg_mode"]
    return get_policy_loss(name, **options)
