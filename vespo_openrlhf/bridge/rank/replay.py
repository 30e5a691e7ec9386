"""The policy's routers, given the experts that the engine took; see `routing_replay`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import torch

from vespo_openrlhf.bridge.rank.head import HeadActor
from vespo_openrlhf.bridge.wire import TrainingExperience
from vespo_openrlhf.models import experts
from vespo_openrlhf.routing_replay import RoutingReplay


class PolicyReplay:
    """Routing replay of OpenRLHF's `Actor`, which DeepSpeed may have wrapped.

    Args:
        actor: the policy.
    """

    def __init__(self, actor: Any) -> None:
        model = getattr(actor.model, "module", actor.model)
        config = json.loads(model.config.to_json_string(use_diff=False))
        self._routing = RoutingReplay(model, experts(config))
        self._packed: bool = actor.packing_samples
        if isinstance(actor, HeadActor):
            actor.routing = self._routing

    @contextlib.contextmanager
    def armed(self, batch: TrainingExperience) -> Iterator[torch.Tensor]:
        """Within, the model takes the `routed_experts` of this batch, which it is given.

        Yields:
            (B,) share of layers of tokens that predict an action whose router would have taken
            other experts; complete after forward.
        """
        assert isinstance(batch.routed_experts, list)
        mask = batch.attention_mask.to(torch.cuda.current_device())
        counted = torch.zeros_like(mask, dtype=torch.bool)
        actions = batch.action_mask.shape[1]
        counted[:, -actions - 1 : -1] = batch.action_mask
        with self._routing.armed(
            batch.routed_experts, mask, packed=self._packed, counted=counted
        ) as differing:
            yield differing
