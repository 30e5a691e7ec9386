"""Several vLLM engines as Ray actors, one model copy each."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

from vespo_openrlhf.eval.engines import Completion, Request
from vespo_openrlhf.eval.engines.episodes import EpisodeEngine, Play
from vespo_openrlhf.eval.engines.offline import OfflineEngine
from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.eval.options import Options

logger = logging.getLogger(__name__)

# An actor reports this often; between two reports it never waits for its driver.
_REPORT_S = 0.5
# Requests an actor holds, in units of what it can run at a time: enough to last until refilled.
_AHEAD = 2


class Worker:
    """An engine that takes requests as it goes along; one Ray actor each."""

    def __init__(
        self, model: str, revision: str | None, options: Options, play: Play | None = None
    ) -> None:
        engine = OfflineEngine(model, revision, options)
        self._engine = EpisodeEngine(engine, play, options.max_tokens) if play else engine

    def capacity(self) -> int:
        """How many responses it generates at a time."""
        return self._engine.capacity

    def advance(self, new: dict[int, Request]) -> list[Completion]:
        """Take new requests, generate for a moment, and report what finished."""
        if new:
            self._engine.add(new)
        finished: list[Completion] = []
        deadline = time.monotonic() + _REPORT_S
        while self._engine.busy and time.monotonic() < deadline:
            finished += self._engine.step()
        return finished


class ClusterEngine:
    """`count` engines on the Ray cluster of ``RAY_ADDRESS``, or on a Ray of its own here.

    Each takes ``tensor_parallel_size`` GPUs (of `engine_options`, 1 by default). Requests go to
    whoever has room; those of an engine that dies go to the others.

    With an agent each plays its own episodes; its file must be there on every node.

    Raises:
        ValueError: the cluster has too few GPUs, or vLLM refuses the model.
    """

    def __init__(
        self,
        model: str,
        revision: str | None,
        options: Options,
        count: int,
        play: Play | None = None,
    ) -> None:
        import ray

        from vespo_openrlhf import cpu

        self._ray = ray
        environment = {"VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "WARNING")}
        gpus = 0
        if cpu.is_active():
            environment |= cpu.environment()
        else:
            gpus = int(options.engine_options.get("tensor_parallel_size", 1))
        self._started = not ray.is_initialized()
        if self._started:
            local: dict[str, Any] = {}
            address = os.environ.get("RAY_ADDRESS", "local")
            if address == "local":
                # Logical CPUs: a small machine must not wait for cores that it does not have.
                local = {"num_cpus": max(os.cpu_count() or 1, count), "include_dashboard": False}
            ray.init(
                address=address,
                runtime_env={"env_vars": environment},
                log_to_driver=False,
                **local,
            )
        available = int(ray.cluster_resources().get("GPU", 0))
        if gpus * count > available:
            self.close()
            raise ValueError(f"--engines {count} takes {gpus * count} GPUs; there are {available}")
        actor = ray.remote(num_cpus=1, num_gpus=gpus)(Worker)
        self._workers = [actor.remote(model, revision, options, play) for _ in range(count)]
        try:
            self._capacity = ray.get([worker.capacity.remote() for worker in self._workers])
        except ray.exceptions.RayError as error:
            self.close()
            raise ValueError(f"an engine did not start: {_last_line(error)}") from error

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Completions as they are reported."""
        waiting = list(range(len(requests)))[::-1]
        held: list[set[int]] = [set() for _ in self._workers]
        calls: dict[Any, int] = {}

        def advance(number: int) -> None:
            room = room_for[number] - len(held[number])
            new = [waiting.pop() for _ in range(min(room, len(waiting)))]
            held[number].update(new)
            if held[number]:
                call = self._workers[number].advance.remote({i: requests[i] for i in new})
                calls[call] = number

        # A short queue is dealt out evenly, not taken whole by the first.
        share = -(-len(requests) // len(self._workers))
        room_for = [min(_AHEAD * c, max(1, share)) for c in self._capacity]
        alive = set(range(len(self._workers)))
        while True:
            for number in alive - set(calls.values()):
                advance(number)
            if not calls:
                if waiting:
                    raise EvaluationError("every engine has died")
                return
            (call,), _ = self._ray.wait(list(calls), num_returns=1)
            number = calls.pop(call)
            try:
                finished = self._ray.get(call)
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None  # as it was there, without Ray's account of it
            except self._ray.exceptions.RayActorError as error:
                logger.warning("an engine died, the others take over: %s", _last_line(error))
                alive.discard(number)
                waiting.extend(held[number])
                continue
            for completion in finished:
                held[number].discard(completion.index)
                yield completion

    def close(self) -> None:
        """End the actors, and Ray where this engine started it."""
        for worker in getattr(self, "_workers", []):
            self._ray.kill(worker)
        if self._started:
            self._ray.shutdown()


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__
