"""Policy weights from the trainer to the engines, over gloo instead of NCCL."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist

# torch.distributed re-exports these four without declaring them, which type checkers mind.
_c10d: Any = dist

# All members were just there; whoever has died on the way is not waited for.
_TIMEOUT = timedelta(minutes=1)


class GlooBroadcastGroup:
    """A process group outside torch's default one, joined by the trainer (rank 0) and every engine.

    It offers what is asked of vLLM's `PyNcclCommunicator`: `broadcast` and `destroy`.
    """

    def __init__(self, host: str, port: int, rank: int, world_size: int) -> None:
        store = _c10d.TCPStore(host, port, world_size, is_master=rank == 0, timeout=_TIMEOUT)
        store = _c10d.PrefixStore("policy-weights", store)
        self._group = _c10d.ProcessGroupGloo(store, rank, world_size, _TIMEOUT)

    def broadcast(self, tensor: torch.Tensor, src: int, stream: Any = None) -> None:
        """Send `tensor` from rank `src`, or fill it; `stream` exists for NCCL's sake."""
        options = _c10d.BroadcastOptions()
        options.rootRank = src
        options.timeout = _TIMEOUT
        group = self._group  # held, or `destroy` would wait for the end of this, with Python's lock
        group.broadcast([tensor.contiguous()], options).wait()

    def destroy(self) -> None:
        """Close it, at once. A broadcast under way ends with the process that it waits for, or in
        time."""
        self._group = None
