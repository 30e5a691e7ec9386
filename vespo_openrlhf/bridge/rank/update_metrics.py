"""What every policy loss, ours or OpenRLHF's, leaves to be seen of each optimizer update."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from vespo_openrlhf.bridge.rank.sample_metrics import gather
from vespo_openrlhf.losses.ratios import masked_sum

#: Under this name rank 0's metrics of a training step hold its updates, in their order.
UPDATES = "updates"


class UpdateMetrics:
    """Adds up an update's micro-batches on the device, and moves the sums off it once a batch.

    Args:
        micro_batches: by how many DeepSpeed divides the sum of an update's losses: OpenRLHF's
            `accumulated_gradient`, 1 with dynamic batches.
        data_ranks: the ranks that train other samples than this one; see `sample_metrics.gather`.
    """

    def __init__(
        self, micro_batches: int = 1, data_ranks: torch.distributed.ProcessGroup | None = None
    ) -> None:
        self._micro_batches = micro_batches
        self._data_ranks = data_ranks
        self._sums: dict[str, torch.Tensor] = {}
        self._updates: list[dict[str, torch.Tensor]] = []
        self._gradient_norms: list[float] = []

    def watched(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """A policy loss in OpenRLHF's shape, of whose calls is kept what `drain` tells of."""

        def call(
            log_probs: torch.Tensor,
            old_log_probs: torch.Tensor,
            advantages: torch.Tensor,
            action_mask: torch.Tensor,
            rollout_log_probs: torch.Tensor | None = None,
            **kwargs: Any,
        ) -> Any:
            results = loss(
                log_probs,
                old_log_probs,
                advantages,
                action_mask=action_mask,
                rollout_log_probs=rollout_log_probs,
                **kwargs,
            )
            value, clip_ratio, ppo_kl, *_ = results
            mask = action_mask.bool()
            tokens = mask.sum()
            self._add(policy_loss=value, tokens=tokens)
            for name, mean in (("ppo_clip_ratio", clip_ratio), ("ppo_kl", ppo_kl)):
                # OpenRLHF's mean over no token is NaN, and stays so with a weight of 0.
                self._add(**{name: torch.where(tokens > 0, mean.detach() * tokens, 0.0)})
            if rollout_log_probs is not None:
                self._add_rollout(log_probs, rollout_log_probs, mask)
            return results

        return call

    @torch.no_grad()
    def _add_rollout(
        self, log_probs: torch.Tensor, rollout_log_probs: torch.Tensor, mask: torch.Tensor
    ) -> None:
        """Of the sequences whose rollout log-probs are all there; the others train nothing."""
        known = ~(mask & ~rollout_log_probs.isfinite()).any(dim=-1)
        mask = mask & known[:, None]
        lengths = mask.sum(dim=-1)
        mu = masked_sum(rollout_log_probs, mask)
        self._add(
            known_tokens=lengths.sum(),
            known_sequences=(lengths > 0).sum(),
            rollout_log_ppl=-(mu / lengths.clamp(min=1)).sum(),
            rollout_kl=(mu - masked_sum(log_probs, mask)).sum(),
        )

    def take(self, metrics: Mapping[str, Any]) -> None:
        """What `ActorPPOTrainer.training_step` adds: the entropy, where it is asked for."""
        if "entropy_loss" in metrics:
            self._add(entropy_loss=metrics["entropy_loss"])

    def _add(self, **values: torch.Tensor) -> None:
        for name, value in values.items():
            value = value.detach().double()
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def end_update(self, gradient_norm: float) -> None:
        """An optimizer step is done; nan for one that was left out."""
        self._updates.append(self._sums)
        self._gradient_norms.append(gradient_norm)
        self._sums = {}

    def drain(self) -> list[dict[str, float]]:
        """One mapping per update since the last call, over all data-parallel ranks.

        - policy_loss, entropy_loss: exactly as the optimizer saw them. OpenRLHF's own mean over
          micro-batches counts one with more tokens twice: each is already its share of the whole.
        - ppo_clip_ratio, ppo_kl: over action tokens.
        - rollout_kl: mean over action tokens of log mu - log pi in nats, mu the engine's and pi
          the policy at this update: KL(mu || pi) estimated on mu's own samples.
        - rollout_log_ppl: mean over sequences of the mean of -log mu over their action tokens.
        - grad_norm: before clipping; nan where the update was left out.

        A mean over nothing is nan. What the run does not measure is not there.
        """
        updates, norms = self._updates, self._gradient_norms
        self._updates, self._gradient_norms, self._sums = [], [], {}
        if not updates:
            return []
        names = list(updates[0])
        local = torch.stack([torch.stack([sums[name] for name in names]) for sums in updates])
        columns = dict(zip(names, local.T.contiguous().cpu(), strict=True))  # the one transfer
        gathered = gather(columns, self._data_ranks)
        ranks = len(gathered["policy_loss"]) // len(updates)
        total = {name: v.view(ranks, -1).sum(0).tolist() for name, v in gathered.items()}
        shares = self._micro_batches * ranks
        means = {
            "policy_loss": [shares] * len(updates),
            "entropy_loss": [shares] * len(updates),
            "ppo_clip_ratio": total["tokens"],
            "ppo_kl": total["tokens"],
            "rollout_kl": total.get("known_tokens"),
            "rollout_log_ppl": total.get("known_sequences"),
        }
        found = {name: units for name, units in means.items() if name in total and units}
        return [
            {
                name: total[name][i] / units[i] if units[i] else math.nan
                for name, units in found.items()
            }
            | {"grad_norm": norms[i]}
            for i in range(len(updates))
        ]


def finite_means(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each name over the updates in which it is finite; nan over none."""
    values = {
        name: [update[name] for update in updates if math.isfinite(update[name])]
        for name in dict.fromkeys(name for update in updates for name in update)
    }
    return {name: sum(v) / len(v) if v else math.nan for name, v in values.items()}
