"""The node's verifier: a pebble pool of warm workers behind a unix socket.

``python -m vespo_openrlhf.reward.server SOCKET`` is started by the first client that finds no
server, serves every process of the node that connects, and exits a few seconds after the last
connection closes, so that it goes when the training job goes, however that ends.

One line of JSON per request and reply: ``{"op": ..., "args": [...], "timeout": seconds}`` to
``{"value": ...}`` or ``{"failure": "timeout" | "overloaded" | "unavailable"}``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import TimeoutError
from typing import Any

import pebble
from pebble import ProcessPool

from vespo_openrlhf.reward import worker

MEMORY_BYTES = 2 * 2**30
LINGER_S = 5.0
QUEUE_S = 30.0
_MAX_LINE = 64 * 2**20
_TASKS_PER_WORKER = 5_000
# Nearly every comparison takes a few milliseconds. One that does not is stopped and made again,
# with all its time, by workers of its own, so that any number of them hold up no other.
_QUICK_S = 1.0
_QUICK_NICE, _PATIENT_NICE = 5, 15


def worker_count() -> int:
    """Half the cores and three more: a few bad answers must not hold up the rest."""
    return min(32, 3 + len(os.sched_getaffinity(0)) // 2)


class Pool:
    """A pebble pool that is replaced when it breaks; it starts its workers at the first task."""

    def __init__(self, workers: int, nice: int) -> None:
        # A terminated worker dies at once (see worker.start); pebble's own three seconds of
        # patience would hold the channel's lock, and with it every other worker.
        pebble.CONSTS.term_timeout = 0.1
        pebble.CONSTS.sleep_unit = 0.05
        self.workers = workers
        self.nice = nice
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

    def submit(self, function: Any, args: list[Any], timeout: float) -> Any:
        """Schedule one task; a broken pool is replaced first."""
        try:
            return self._pool.schedule(function, args=args, timeout=timeout)
        except RuntimeError:
            with contextlib.suppress(Exception):
                self._pool.stop()
            self._pool = self._new()
            return self._pool.schedule(function, args=args, timeout=timeout)

    def stop(self) -> None:
        """Kill the workers."""
        self._pool.stop()
        self._pool.join()


class Server:
    """Serves connections until none has been open for :data:`LINGER_S`."""

    def __init__(self, workers: int) -> None:
        self.quick = Pool(workers, _QUICK_NICE)
        self.patient = Pool(workers, _PATIENT_NICE)
        self.connections = 0
        self.idle_since = time.monotonic()

    async def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        operation, args = request["op"], request["args"]
        timeout = float(request["timeout"])
        if operation != "score":  # a user's function may not be one that can be called twice
            limit = min(timeout, _QUICK_S)
            reply = await self._attempt(self.quick, worker.quickly, [operation, args], limit)
            if reply.get("value"):
                return {"value": reply["value"][0]}
            if "failure" in reply:
                if reply["failure"] != "timeout" or limit == timeout:
                    return reply
                timeout -= limit
        return await self._attempt(self.patient, worker.OPERATIONS[operation], args, timeout)

    async def _attempt(
        self, pool: Pool, function: Callable[..., Any], args: list[Any], timeout: float
    ) -> dict[str, Any]:
        for _ in range(2):
            future = pool.submit(function, args, timeout)
            wrapped = asyncio.wrap_future(future)
            try:
                done, _ = await asyncio.wait({wrapped}, timeout=QUEUE_S + timeout + 1)
            finally:
                wrapped.cancel()  # a caller that is gone, or out of patience, frees the worker
            if not done:
                return {"failure": "overloaded"}
            error = wrapped.exception()
            if error is None:
                return {"value": wrapped.result()}
            if isinstance(error, TimeoutError):
                return {"failure": "timeout"}
            # The worker died, or the pool broke: both are replaced, and the call is made again.
            print(f"{function.__name__}: {type(error).__name__}: {error}", file=sys.stderr)
        return {"failure": "unavailable"}

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection, one after the other."""
        self.connections += 1
        try:
            while line := await reader.readline():
                run = asyncio.ensure_future(self._run(json.loads(line)))
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
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener.bind(path)
    listener.listen(1024)
    server = Server(worker_count())
    try:
        asyncio.run(server.serve(listener))
    finally:
        server.quick.stop()
        server.patient.stop()


if __name__ == "__main__":
    main(sys.argv[1])
