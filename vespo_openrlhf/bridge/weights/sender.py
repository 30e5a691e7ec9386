"""The weights on their way from the trainer to the engines, any of which may die or hang meanwhile.

They go in buckets of pieces: one message to each engine, one broadcast, one answer from each, which
an engine gives when the bucket has arrived and is loaded, and at the end a call to each to put in
place what it has kept. A broadcast on a GPU is over for its caller before it has begun, and waits
for a dead receiver forever; so our part is done in a thread of its own, and where an engine fails
or nothing moves, the process group is destroyed, which ends the broadcast on this side. Nobody who
took part can then be taken to be whole.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import ray
import torch
from openrlhf.trainer.ray.utils import get_physical_gpu_id
from openrlhf.utils import distributed_util
from torch.multiprocessing.reductions import reduce_tensor

from vespo_openrlhf.bridge.errors import LostEnginesError, RefusedWeightsError
from vespo_openrlhf.bridge.weights.checksum import checksums
from vespo_openrlhf.bridge.weights.pieces import BUCKET_BYTES, Piece, gathered, pieces

#: Without an answer to a bucket, or to the making of a group, the update is given up.
STALL_SECONDS = 120.0
_LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Sent:
    """What one update of the weights took.

    Attributes:
        messages: to each engine.
        seconds: from gathering the first parameter to the last engine's last answer.
    """

    messages: int
    seconds: float


class WeightPublisher:
    """Sends the weights of one rank's `ActorPPOTrainer` to the engines that are named.

    Args:
        trainer: OpenRLHF's trainer; it need not have made a process group.
        stall_seconds: given to the engines for each bucket.
        bucket_bytes: of one bucket.

    Raises:
        ValueError: as `pieces`.
    """

    def __init__(
        self,
        trainer: Any,
        stall_seconds: float = STALL_SECONDS,
        bucket_bytes: int = BUCKET_BYTES,
    ) -> None:
        self._trainer = trainer
        self._stall_seconds = stall_seconds
        self._bucket_bytes = bucket_bytes
        actor = trainer.actor
        # Of a model that takes images, the trained ones: its visual encoder stays as it is.
        sees = getattr(actor, "is_vlm", False)
        self._pieces = [p for p in pieces(actor.model.module) if p.trained or not sees]
        self._group: Any = None
        self._receivers: list[str] = []

    def publish(self, names: Sequence[str], engines: Sequence[Any]) -> Sent:
        """Send the weights to just these engines, named by `engine_name`. All ranks take part.

        The process group is made anew where they are not the ones it was made for: a restarted
        engine has left it, and one that only joins must not be waited for by the others.

        Where the engines share the trainer's GPUs they are handed its memory instead. There an
        error leaves the ranks in different places, so nothing may follow it.

        Raises:
            LostEnginesError: an engine has failed or does not answer. None of them may be taken to
                have the weights, or to be able to take any.
            RefusedWeightsError: an engine has the weights and cannot load them, or holds others.
        """
        started = time.monotonic()
        error: Exception | None = None
        args, engine = self._trainer.args, self._trainer.actor.model
        sends, shares = torch.distributed.get_rank() == 0, self._trainer.use_cuda_ipc
        torch.cuda.empty_cache()
        if sends and not shares:
            error = _error_of(self._meet, names, engines)
        messages = 0
        for verifying in (False, True) if args.vllm.verify_weights else (False,):
            if verifying and sends and error is None:
                error = _error_of(self._ask, "verify_weights", engines)
            # All buckets, also after an error: other ranks wait for this one in every gathering.
            for bucket in gathered(engine, args.ds, self._pieces, self._bucket_bytes):
                messages += len(bucket) if shares else 1
                if shares:
                    self._hand_over(bucket, engines)
                elif sends and error is None:
                    error = _error_of(self._send, bucket, engines, verifying)
            if sends and error is None:
                error = _error_of(self._ask, "finish_weights", engines)
        torch.cuda.empty_cache()
        distributed_util.torch_dist_barrier_and_cuda_sync()
        if error is not None:
            raise error
        return Sent(messages, time.monotonic() - started)

    def _hand_over(self, bucket: Sequence[Piece], engines: Sequence[Any]) -> None:
        """Let each engine's workers read a bucket where it lies: in the memory of the rank on the
        same GPU. All ranks take part; OpenRLHF's workers take one weight a call."""
        for piece in bucket:
            # A copy: what DeepSpeed gathers lies in memory that is not one tensor's alone.
            tensor = piece.tensor().clone()
            handles: list[Any] = [None] * torch.distributed.get_world_size()
            own = {get_physical_gpu_id(): reduce_tensor(tensor)}
            torch.distributed.all_gather_object(handles, own)
            if torch.distributed.get_rank() == 0:
                by_gpu = {gpu: handle for each in handles for gpu, handle in each.items()}
                ray.get(
                    [
                        engine.update_weight_cuda_ipc.remote(
                            piece.name,
                            dtype=tensor.dtype,
                            shape=tensor.shape,
                            ipc_handles=by_gpu,
                            # What loading has left in the engine's cache is the trainer's to use.
                            empty_cache=piece is self._pieces[-1],
                        )
                        for engine in engines
                    ]
                )
            # Every engine has read it before the memory is freed.
            distributed_util.torch_dist_barrier_and_cuda_sync()

    def _meet(self, names: Sequence[str], engines: Sequence[Any]) -> None:
        """Be in a process group with just these engines: rank 0, and theirs in their order."""
        if self._group is not None and list(names) == self._receivers:
            return
        self._part()
        vllm = self._trainer.args.vllm
        workers = vllm.tensor_parallel_size
        world = 1 + workers * len(engines)
        address, port = ray.util.get_node_ip_address().strip("[]"), _free_port()
        calls = [
            engine.init_process_group.remote(
                *(address, port, 1 + i * workers, world, "weights", vllm.sync_backend, False)
            )
            for i, engine in enumerate(engines)
        ]
        device = torch.cuda.current_device()
        self._group = self._together(
            calls,
            lambda: distributed_util.stateless_init_process_group(address, port, 0, world, device),
        )
        self._receivers = list(names)

    def _send(self, bucket: Sequence[Piece], engines: Sequence[Any], verifying: bool) -> None:
        shapes = [(piece.name, tuple(piece.weight.shape)) for piece in bucket]
        sizes = [piece.weight.numel() for piece in bucket]
        if len(bucket) == 1:
            flat = bucket[0].tensor().reshape(-1)
        else:
            weight = bucket[0].weight
            flat = torch.empty(sum(sizes), dtype=weight.dtype, device=weight.device)
            for piece, part in zip(bucket, flat.split(sizes), strict=True):
                part.copy_(piece.tensor().reshape(-1))
        what: list[Any] = [flat.dtype, shapes]
        if verifying:
            what.append(checksums(flat.split(sizes)))
        calls = [engine.receive_weights.remote(*what) for engine in engines]
        group, stream = self._group, torch.cuda.current_stream()
        self._together(calls, lambda: group.broadcast(flat, src=0, stream=stream))

    def _ask(self, method: str, engines: Sequence[Any]) -> None:
        self._together([getattr(engine, method).remote() for engine in engines], lambda: None)

    def _together(self, calls: Sequence[Any], ours: Callable[[], Any]) -> Any:
        """Do our part while the engines do theirs; what ours returns.

        Raises:
            LostEnginesError, RefusedWeightsError: as `publish`, and the group is gone.
        """
        part = _in_thread(ours)
        deadline = time.monotonic() + self._stall_seconds
        pending = list(calls)
        try:
            while pending or not part.done():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no answer for {self._stall_seconds:g} s")
                if not pending:
                    futures.wait([part], _LOOK_SECONDS)
                    continue
                answered, pending = ray.wait(pending, timeout=_LOOK_SECONDS)
                ray.get(answered)
                if part.done():
                    part.result()
            return part.result()
        except Exception as error:
            self._part()
            cause = getattr(error, "cause", None) or error  # what Ray has wrapped
            if isinstance(cause, RefusedWeightsError):
                raise RefusedWeightsError(str(cause)) from None
            reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
            raise LostEnginesError(f"the weights did not reach every engine: {reason}") from error

    def _part(self) -> None:
        """Leave the group, and end what is still waited for in it on this side."""
        group, self._group, self._receivers = self._group, None, []
        if group is not None:
            group.destroy()


def _error_of(work: Callable[..., None], *args: Any) -> Exception | None:
    try:
        work(*args)
    except Exception as error:
        return error
    return None


def _in_thread(work: Callable[[], Any]) -> Future[Any]:
    """`work` in a thread that may be left behind: it does not keep the process from ending."""
    future: Future[Any] = Future()
    device = torch.cuda.current_device()

    def run() -> None:
        torch.cuda.set_device(device)  # each thread has its own
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
