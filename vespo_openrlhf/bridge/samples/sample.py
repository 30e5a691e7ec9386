"""One sample in the making: where it is, and how long it may be there.

OpenRLHF's executors make a response and score it, with as many requests to the engine as they like
and an environment between them. A request belongs to the sample in whose task it is made, whatever
object it is made by: an executor may keep the first engine it was given.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any

from vespo_openrlhf.agents.calling import contained
from vespo_openrlhf.bridge.errors import LostSampleError
from vespo_openrlhf.bridge.events import SampleLimits
from vespo_openrlhf.scheduling.lag import Spans

_CURRENT: ContextVar[Sample | None] = ContextVar("sample", default=None)
# What held tasks wait for. One that were collected would be sent a `GeneratorExit`, and go on.
_NEVER: set[asyncio.Future[None]] = set()


class Sample:
    """Of one group, or of an evaluation.

    Args:
        version: of the engine's weights.
        limits: of the run.
        asks_itself: whether all its requests are made in its own task.

    Attributes:
        version: no token of it is older.
        on_away, on_back: called when it leaves the engine, and when it asks for more, of which
            version at least.
        on_answered: called with the versions of a request's tokens when it is answered.
    """

    def __init__(self, version: int, limits: SampleLimits, *, asks_itself: bool = False) -> None:
        self.version = version
        self._asks_itself = asks_itself
        self.on_away: Callable[[], None] = lambda: None
        self.on_back: Callable[[int], None] = lambda version: None
        self.on_answered: Callable[[Spans], None] = lambda spans: None
        self._limits = limits
        self._requests = 0  # in all
        self._answering = 0  # of these under way
        self._perhaps = 0  # under way, and nobody knows whose
        self._away_since = time.monotonic()
        self._exceeded: LostSampleError | None = None
        self._task: asyncio.Future[Any] | None = None
        self._ended: asyncio.Future[None]
        self._over = False
        self._held = False  # its task, which asks although it is over

    @staticmethod
    def current() -> Sample | None:
        """The one whose task asks, or a task or thread that was started from there."""
        sample = _CURRENT.get()
        # A task that one sample has started may work for all that come after it.
        return None if sample is None or sample._over else sample

    @staticmethod
    async def hold_ended() -> None:
        """Before a request: of a task whose sample is over it never comes to one. It is cancelled
        once more, as an environment may have caught that; an executor that catches whatever is
        raised would ask on and on, and where it is refused at once, leave the engine's loop no
        moment for anything else."""
        sample = _CURRENT.get()
        if sample is not None and (sample._over or sample._exceeded is not None):
            task = asyncio.current_task()
            if task is not None and task is sample._task:
                if not sample._held:
                    sample._held = True
                    task.cancel()
                never = asyncio.get_running_loop().create_future()
                _NEVER.add(never)
                try:
                    await never
                finally:
                    _NEVER.remove(never)
            await asyncio.sleep(0)

    @contextlib.contextmanager
    def on_engine(self, version: int) -> Iterator[None]:
        """While the engine, which has the weights of `version`, answers a request.

        Raises:
            LostSampleError: it is one too many.
        """
        try:
            self.check_turns(self._requests + 1)
        except LostSampleError as error:
            assert self._task is not None
            self._exceeded = error
            self._task.cancel()  # an executor may catch the error, and ask again
            if not self._ended.done():
                self._ended.set_result(None)
            raise
        if not self._requests and self._asks_itself:
            self.version = version  # its first token is yet to come
        self._requests += 1
        self._answering += 1
        if self._answering == 1:
            self.on_back(self.version)
        try:
            yield
        finally:
            self._answering -= 1
            self._away_since = time.monotonic()
            if not self._answering and not self._over:
                self.on_away()

    @contextlib.contextmanager
    def perhaps_on_engine(self) -> Iterator[None]:
        """While the engine answers a request that may be the sample's, by way of a server of its
        executor's: it is not taken for away."""
        self._perhaps += 1
        try:
            yield
        finally:
            self._perhaps -= 1
            self._away_since = time.monotonic()

    def check_turns(self, turns: int) -> None:
        """Raises LostSampleError where so many are too many."""
        most = self._limits.max_turns
        if most is not None and turns > most:
            message = f"no end after {most} turns (--agent.max_turns)"
            raise LostSampleError(message, "max_turns")

    async def play(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What the executor's work comes to, within the limits. What is over is cancelled, and its
        requests leave the engine.

        Raises:
            LostSampleError: it has exceeded one.
            RuntimeError: see `contained`.
        """
        started = time.monotonic()
        token = _CURRENT.set(self)
        # Which has this context from here on.
        self._task = task = asyncio.ensure_future(contained(work))
        _CURRENT.reset(token)
        self._ended = asyncio.get_running_loop().create_future()
        self.on_away()  # an environment comes first
        try:
            while self._exceeded is None:
                now = time.monotonic()
                left, error = min(self._due(started, now), key=lambda due: due[0])
                if left <= 0:
                    raise error
                wanted = {task, self._ended}
                await asyncio.wait(wanted, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if task.cancelled() and self._exceeded is None:
                    raise RuntimeError("the executor has cancelled itself")  # nobody else has
                if task.done() and self._exceeded is None:
                    return task.result()
            raise self._exceeded
        finally:
            self._over = True
            task.cancel()

    def _due(self, started: float, now: float) -> Iterator[tuple[float, LostSampleError]]:
        """For each limit: how many seconds it leaves, and what is raised then."""
        limits = self._limits
        away = limits.away_timeout
        # A moment on the engine begins the stretch anew; look again when the present one may end.
        yield (
            away - (0.0 if self._answering or self._perhaps else now - self._away_since),
            LostSampleError(
                f"no word from its reward or environment for {away:g} s", limits.away_reason
            ),
        )
        whole = limits.episode_timeout
        message = f"no end after {whole:g} s (--rollout.episode_timeout)"
        yield whole - (now - started), LostSampleError(message, "episode_timeout")
