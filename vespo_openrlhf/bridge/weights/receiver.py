"""What vLLM's workers can do besides: receive weights. Run in vLLM's worker processes.

OpenRLHF's extension takes one parameter a call, answers before it has arrived, and keeps the
process groups that it has left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap


class WeightReceiver(WorkerWrap):
    """Worker extension: vLLM makes it a base of its worker."""

    _model_update_group: Any

    def init_process_group(self, *args: Any, **kwargs: Any) -> None:
        """As OpenRLHF's, after leaving the group of before."""
        group, self._model_update_group = getattr(self, "_model_update_group", None), None
        if group is not None:
            group.destroy()
        super().init_process_group(*args, **kwargs)

    def receive_weights(
        self, dtype: torch.dtype, shapes: Sequence[tuple[str, tuple[int, ...]]]
    ) -> str:
        """Receive a bucket of parameters, one after another in one tensor, and load them.

        Args:
            dtype: of all of them.
            shapes: by name, in order.

        Returns:
            Why they cannot be loaded; empty where they are. vLLM would make a RuntimeError of any
            exception here, and this one is told apart from a broadcast that breaks.
        """
        sizes = [math.prod(shape) for _, shape in shapes]
        flat = torch.empty(sum(sizes), dtype=dtype, device=self.device)
        self._model_update_group.broadcast(flat, src=0, stream=torch.cuda.current_stream())
        torch.cuda.synchronize()  # it has arrived
        expected = self.model_config.dtype
        if dtype != expected:
            return f"weights arrive as {dtype}, the engine holds {expected}"
        parts = zip(shapes, flat.split(sizes), strict=True)
        weights = [(name, part.view(shape)) for (name, shape), part in parts]
        try:
            self.model_runner.model.load_weights(weights=weights)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        return ""
