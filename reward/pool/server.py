"""The node's verifier: a pebble pool of warm workers behind a unix socket.

``python -m vespo_openrlhf.reward.pool.server SOCKET`` is started, under :mod:`.guardian`, by the
first client that finds no server, serves every process of the node that connects, and exits a few
seconds after the last connection closes, so that it goes when the training job goes, however that
ends.

One line of JSON per request and reply: ``{"op": ..., "args": [...], "timeout": seconds}`` to
``{"value": ...}`` or ``{"failure": "timeout" | "overloaded" | "unavailable"}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import itertools
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError
from dataclasses import dataclass
from typing import Any

import pebble
from pebble import ProcessPool

from vespo_openrlhf.reward.pool import worker

MEMORY_BYTES = 2 * 2**30
LINGER_S = 5.0
QUEUE_S = 30.0
# A worker that is killed at the moment it takes a call takes it along: pebble, which counts time
# from when a worker says that it has begun, would wait for ever. So long after its time a call is
# made again; short of that a busy machine may only just be starting a worker for it.
LOST_S = 8.0
_MAX_LINE = 64 * 2**20
_TASKS_PER_WORKER = 5_000
# Nearly every comparison takes a few milliseconds of processor time, so it is given few at first.
# What needs more is made again with more, but only where no first try waits for a worker; and if
# that is not enough, with all its time, by workers of its own. So an answer that was made to take
# long delays the others by its first slice, whatever it computes.
_SLICES_S = (0.03, 0.15)
_QUICK_S = 1.0  # by the clock, should a worker be stopped
_QUICK_NICE, _PATIENT_NICE = 5, 15


def worker_count() -> int:
    """Half the cores and three more: a few bad answers must not hold up the rest."""
    return min(32, 3 + len(os.sched_getaffinity(0)) // 2)


class _Turns:
    """So many at a time: of those that wait the lowest rank is next, then who came first."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = itertools.count()

    async def take(self, rank: int) -> None:
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, next(self._count), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give()  # it came together with the end of our patience
            raise

    def give(self) -> None:
        while self._waiting:
            *_, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Pool:
    """A pebble pool that is replaced when it breaks; it starts its workers at the first task.

    Tasks wait here, not in pebble's queue: one that nobody waits for any more is then forgotten,
    where pebble would have a worker take it and kill that worker.
    """

    def __init__(self, workers: int, nice: int) -> None:
        # A terminated worker dies at once (see worker.start); pebble's own three seconds of
        # patience would hold the channel's lock, and with it every other worker.
        pebble.CONSTS.term_timeout = 0.1
        pebble.CONSTS.sleep_unit = 0.05
        self.workers = workers
        self.nice = nice
        self._turns = _Turns(workers)
        self._pool = self._new()

    def _new(self) -> ProcessPool:
        # fork: this process holds only the warm imports, no CUDA and no open files but pipes.
        return ProcessPool(
            max_workers=self.workers,
            max_tasks=_TASKS_PER_WORKER,
            initializer=worker.start,
            initargs=(MEMORY_BYTES, self.nice),
            context=multiprocessing.get_context("fork"),
        )

    def _submit(self, function: Any, args: list[Any], timeout: float) -> Any:
        """Schedule one task; a broken pool is replaced first."""
        try:
            return self._pool.schedule(function, args=args, timeout=timeout)
        except RuntimeError:
            with contextlib.suppress(Exception):
                self._pool.stop()
            self._pool = self._new()
            return self._pool.schedule(function, args=args, timeout=timeout)

    async def run(
        self, function: Callable[..., Any], args: list[Any], timeout: float, rank: int = 0
    ) -> dict[str, Any]:
        """The ``value`` of a call, or its ``failure``: "timeout" or "unavailable".

        Args:
            function: what a worker calls.
            args: with these.
            timeout: seconds it may run.
            rank: a lower one is served first.
        """
        for _ in range(2):
            await self._turns.take(rank)
            try:
                call = asyncio.wrap_future(self._submit(function, args, timeout))
                try:
                    done, _ = await asyncio.wait({call}, timeout=timeout + LOST_S)
                finally:
                    call.cancel()  # a caller that is gone, or out of patience, frees the worker
            finally:
                self._turns.give()
            if not done:
                print(f"{function.__name__}: lost with its worker", file=sys.stderr)
                continue
            error = call.exception()
            if error is None:
                return {"value": call.result()}
            if isinstance(error, TimeoutError) or getattr(error, "exitcode", 0) == -signal.SIGPROF:
                return {"failure": "timeout"}
            # The worker died, or the pool broke: both are replaced, and the call is made again.
            print(f"{function.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
        return {"failure": "unavailable"}

    def stop(self) -> None:
        """Kill the workers."""
        self._pool.stop()
        self._pool.join()


@dataclass
class _Shared:
    """Work that several wait for."""

    work: asyncio.Future[dict[str, Any]]
    waiting: int = 0


class Server:
    """Serves connections until none has been open for :data:`LINGER_S`."""

    def __init__(self, workers: int) -> None:
        self.quick = Pool(workers, _QUICK_NICE)
        self.patient = Pool(workers, _PATIENT_NICE)
        # Apart from the others, as a score may ask for a comparison and wait for it.
        self.scores = Pool(workers, _PATIENT_NICE)
        self._shared: dict[bytes, _Shared] = {}
        self.connections = 0
        self.idle_since = time.monotonic()

    async def _run(self, operation: str, args: list[Any], timeout: float) -> dict[str, Any]:
        if operation == "score":
            return await self.scores.run(worker.score, [timeout, *args], timeout)
        limit = min(timeout, _QUICK_S)
        for rank, seconds in enumerate(_SLICES_S):
            slice_args = [operation, args, seconds]
            reply = await self.quick.run(worker.quickly, slice_args, limit, rank)
            if reply.get("value"):
                return {"value": reply["value"][0]}
            if reply.get("failure") == "unavailable":
                return reply
        return await self.patient.run(worker.OPERATIONS[operation], args, timeout)

    async def _work(self, operation: str, args: list[Any], timeout: float) -> dict[str, Any]:
        try:
            return await asyncio.wait_for(self._run(operation, args, timeout), QUEUE_S + timeout)
        except asyncio.TimeoutError:
            return {"failure": "overloaded"}

    async def _answer(self, line: bytes) -> dict[str, Any]:
        """Answer a request; one that is being worked on already is not made twice."""
        request = json.loads(line)
        operation, timeout = request["op"], float(request["timeout"])
        if operation == "score":  # of which nobody says that it is the same each time
            return await self._work(operation, request["args"], timeout)
        if line not in self._shared:
            work = self._work(operation, request["args"], timeout)
            self._shared[line] = _Shared(asyncio.ensure_future(work))
        shared = self._shared[line]
        shared.waiting += 1
        try:
            return await asyncio.shield(shared.work)
        finally:
            shared.waiting -= 1
            if not shared.waiting:
                shared.work.cancel()  # where all have gone before it was done
                del self._shared[line]

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after the other."""
        self.connections += 1
        try:
            while line := await reader.readline():
                run = asyncio.ensure_future(self._answer(line))
                gone = asyncio.ensure_future(reader.read(1))  # nothing comes but the end
                await asyncio.wait({run, gone}, return_when=asyncio.FIRST_COMPLETED)
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    await gone  # the reader takes one wait at a time
                if not run.done():
                    run.cancel()
                    break
                writer.write(json.dumps(run.result()).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError, KeyError, asyncio.IncompleteReadError):
            pass
        finally:
            self.connections -= 1
            self.idle_since = time.monotonic()
            writer.close()

    async def serve(self, listener: socket.socket) -> None:
        """Accept connections until idle, then take the socket away."""
        path = listener.getsockname()
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        server = await asyncio.start_unix_server(self.handle, sock=listener, limit=_MAX_LINE)
        async with server:
            while not stop.is_set():
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(stop.wait(), 1.0)
                if not self.connections and time.monotonic() - self.idle_since > LINGER_S:
                    break
            # While we still listen: from here on these names may be those of the next server.
            with contextlib.suppress(OSError):
                os.unlink(path)
                if not os.path.getsize(f"{path}.log"):
                    os.unlink(f"{path}.log")


def main(path: str) -> None:
    """Listen on ``path`` until idle; the caller holds the lock that makes us the only one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker.die_with_parent()
    gc.collect()
    gc.freeze()  # or each new worker's first collection goes through all that we have imported
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener.bind(path)
    listener.listen(1024)
    server = Server(worker_count())
    try:
        asyncio.run(server.serve(listener))
    finally:
        for pool in (server.quick, server.patient, server.scores):
            pool.stop()


if __name__ == "__main__":
    main(sys.argv[1])
