"""Policy weights from the trainer to the engines, over gloo instead of NCCL."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

# torch.distributed re-exports these four without declaring them, which type checkers mind.
_c10d: Any = dist

# At first, engines may still be loading. When they meet again, all of them were just there, and
# whoever has died on the way is not waited for.
_TIMEOUT = timedelta(minutes=30)
_AGAIN_TIMEOUT = timedelta(minutes=1)


class GlooBroadcastGroup:
    """A process group outside torch's default one, joined by the trainer (rank 0) and every engine.

    It offers the one call OpenRLHF makes on its NCCL communicator: `broadcast`.
    """

    _met_before = False  # in this process

    def __init__(self, host: str, port: int, rank: int, world_size: int) -> None:
        timeout = _AGAIN_TIMEOUT if GlooBroadcastGroup._met_before else _TIMEOUT
        store = _c10d.TCPStore(host, port, world_size, is_master=rank == 0, timeout=timeout)
        store = _c10d.PrefixStore("policy-weights", store)
        self._group = _c10d.ProcessGroupGloo(store, rank, world_size, timeout)
        GlooBroadcastGroup._met_before = True

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        """Send `tensor` from rank `src`, or fill it; `stream` exists for NCCL's sake."""
        options = _c10d.BroadcastOptions()
        options.rootRank = src
        options.timeout = _TIMEOUT
        self._group.broadcast([tensor.contiguous()], options).wait()


def receive_weight(
    self: Any, name: str, dtype: torch.dtype, shape: torch.Size, empty_cache: bool = False
) -> None:
    """`WorkerWrap.update_weight` for a vLLM worker on the CPU: receive one parameter, load it."""
    expected = self.model_config.dtype
    if dtype != expected:
        raise RuntimeError(f"weight {name} arrives as {dtype}, the engine holds {expected}")
    weight = torch.empty(shape, dtype=dtype)
    self._model_update_group.broadcast(weight, src=0)
    self.model_runner.model.load_weights(weights=[(name, weight)])
