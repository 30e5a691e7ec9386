"""What OpenRLHF logs of micro-batches, over all that the ranks have trained."""

from __future__ import annotations

from typing import Any

import torch


class SampleMetrics:
    """What OpenRLHF logs of every micro-batch, over all that were trained.

    What it has by sample is averaged over the finite values of samples with action tokens; its
    own means count the others, and are NaN where one sample's value is. What it has by token is
    averaged over tokens, and of what is no mean the last value is kept.
    """

    def __init__(self) -> None:
        self._by_sample: dict[str, list[torch.Tensor]] = {}
        self._by_token: dict[str, list[torch.Tensor]] = {}
        self._tokens = 0.0
        self._last: dict[str, float] = {}

    def take(self, status: dict[str, Any], action_mask: torch.Tensor) -> None:
        """Set aside what `ActorPPOTrainer.training_step` reports of a (B, A) micro-batch."""
        metrics, trained = status["metrics"], action_mask.any(dim=-1).cpu()
        tokens = status["num_action_tokens"] if trained.any() else 0.0
        self._tokens += tokens
        for name, weight in status["weights"].items():
            value = metrics[name]
            if weight == "sample":
                self._by_sample.setdefault(name, []).append(value.detach().float().cpu()[trained])
            elif weight == "token":
                # Over no token the mean is 0 / 0, and stays NaN when it is given a weight of 0.
                value = value.detach().double()
                part = value * tokens if tokens else torch.zeros_like(value)
                self._by_token.setdefault(name, []).append(part)
            else:
                self._last[name] = value

    def drain(self, data_ranks: torch.distributed.ProcessGroup | None) -> dict[str, float]:
        """Over all `data_ranks` since the last call; NaN over nothing."""
        by_sample = {name: torch.cat(parts) for name, parts in self._by_sample.items()}
        sums = {
            name: torch.stack(parts).sum(0, keepdim=True).cpu()
            for name, parts in self._by_token.items()
        }
        tokens = {"": torch.tensor([self._tokens], dtype=torch.float64)}
        status, self._tokens, self._last = self._last, 0.0, {}
        self._by_sample, self._by_token = {}, {}
        gathered = gather(by_sample | sums | tokens, data_ranks)
        total = gathered.pop("").sum()
        for name, values in gathered.items():
            mean = values.sum() / total if name in sums else values[values.isfinite()].mean()
            status[name] = mean.item()
        return status


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
