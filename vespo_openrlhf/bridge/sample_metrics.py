"""Means over the samples that an actor's ranks have trained."""

from __future__ import annotations

from typing import Any

import torch


class SampleMetrics:
    """Means of what OpenRLHF logs of every sample, over those that were trained.

    OpenRLHF's own count samples without action tokens, and are NaN where one sample's value is;
    here a mean is over what is finite, of the samples with action tokens.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[torch.Tensor]] = {}

    def take(self, status: dict[str, Any], action_mask: torch.Tensor) -> None:
        """Set aside what `ActorPPOTrainer.training_step` reports of a (B, A) micro-batch.

        A micro-batch without an action token is made one that weighs nothing in OpenRLHF's own
        means over tokens, which it would end: 0 / 0 by rank, and a division by 0 over all ranks.
        """
        metrics, trained = status["metrics"], action_mask.any(dim=-1).cpu()
        empty = not trained.any()
        for name, weight in status["weights"].items():
            if weight == "sample":
                values = metrics[name].detach().float().cpu()
                self._parts.setdefault(name, []).append(values[trained])
            elif weight == "token" and empty:
                metrics[name] = 0.0
        if empty:
            status["num_action_tokens"] = 1e-9

    def drain(self, data_ranks: torch.distributed.ProcessGroup | None) -> dict[str, float]:
        """The means over all `data_ranks` since the last call; NaN over nothing."""
        local = {name: torch.cat(parts) for name, parts in self._parts.items()}
        self._parts.clear()
        gathered = gather(local, data_ranks)
        return {name: v[v.isfinite()].mean().item() for name, v in gathered.items()}


def gather(
    local: dict[str, torch.Tensor], data_ranks: torch.distributed.ProcessGroup | None = None
) -> dict[str, torch.Tensor]:
    """Concatenate the ranks' vectors, whose lengths differ; a collective call of `data_ranks`.

    Ranks that share their samples with this one (ring attention, tensor parallelism) are to be
    left out of it, or every sample counts as often as there are copies. None: all ranks.
    """
    if not torch.distributed.is_initialized():
        return local
    ranks: list[dict[str, torch.Tensor]] = [
        {} for _ in range(torch.distributed.get_world_size(data_ranks))
    ]
    torch.distributed.all_gather_object(ranks, local, group=data_ranks)
    return {name: torch.cat([rank[name] for rank in ranks]) for name in local}
