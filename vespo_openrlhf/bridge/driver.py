"""The scheduler over Ray: engines as actors, and one event loop on which everything is decided.

A dead engine actor is restarted by Ray in its old place. Its groups are sent to others meanwhile,
and it joins again under a new name as soon as it answers; the trainer then gives it weights.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayError

from vespo_openrlhf.bridge.events import Generated, RolloutSettings
from vespo_openrlhf.scheduling import Request, Scheduler

# An engine that dies this often without finishing a sample in between will not get better.
MAX_DEATHS_IN_A_ROW = 4
_RESTART_SECONDS = 30 * 60

logger = logging.getLogger(__name__)


class PromptRow(NamedTuple):
    """A row of the data set as the engine takes it."""

    prompt: str
    label: str
    images: Any


def engine_name(index: int, restarts: int = 0) -> str:
    """Of the engine at `index`; each restart makes it another engine."""
    return f"engine-{index}" + (f".{restarts}" if restarts else "")


class RayEngine:
    """One life of a rollout actor; see `scheduling.Engine`."""

    def __init__(self, driver: Driver, actor: Any, index: int, restarts: int = 0) -> None:
        self.name = engine_name(index, restarts)
        self.actor = actor
        self.index = index
        self.restarts = restarts
        self.dead = False
        self._driver = driver

    def generate(self, request: Request) -> None:
        """Start a group."""
        self._driver.spawn(self._stream(request))

    def abort(self, ticket: int) -> None:
        """Stop a group."""
        self.actor.abort_group.remote(ticket)

    async def _stream(self, request: Request) -> None:
        scheduler, row = self._driver.scheduler, self._driver.rows[request.prompt.row]
        stream = self.actor.stream_group.options(num_returns="streaming")
        try:
            async for reference in stream.remote(request.ticket, *row, request.samples):
                event = await reference
                if self.dead:
                    return
                if isinstance(event, Generated):
                    scheduler.on_generated(request.ticket, event.sample, event.spans)
                else:
                    self._driver.deaths_in_a_row[self.index] = 0
                    scheduler.on_scored(request.ticket, event.sample, event.reward, event.rollout)
                self._driver.wake()
        except RayError as error:
            self._driver.engine_failed(self, error)


class Driver:
    """Runs a scheduler to its end on the event loop of the moment.

    Args:
        scheduler: the scheduler; its trainer spawns its work here.
        rows: the data set, by row.
        actors: the rollout actors, with the weights of version 0.
        settings: what all responses have in common.
        no_restart: where an engine that fails ends the run, says why.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        rows: Sequence[PromptRow],
        actors: Sequence[Any],
        settings: RolloutSettings,
        no_restart: Callable[[], str] | None = None,
    ) -> None:
        self.scheduler = scheduler
        self.rows = rows
        self.engines = [RayEngine(self, actor, i) for i, actor in enumerate(actors)]
        self.deaths_in_a_row = [0] * len(self.engines)
        # Once for all: a tokenizer of a large vocabulary is megabytes.
        self._settings = ray.put(settings)
        self._no_restart = no_restart
        self._tasks: set[asyncio.Task[None]] = set()
        self._awaited: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._changed = asyncio.Event()

    @property
    def living(self) -> list[RayEngine]:
        """The engines that are not known to be dead."""
        return [engine for engine in self.engines if not engine.dead]

    def by_name(self, names: Sequence[str]) -> list[RayEngine]:
        """The living engines of these names."""
        living: Mapping[str, RayEngine] = {engine.name: engine for engine in self.living}
        return [living[name] for name in names if name in living]

    def spawn(self, work: Coroutine[Any, Any, None], *, awaited: bool = False) -> None:
        """Do this beside everything else; an error in it ends the run.

        Args:
            awaited: `run` does not return before it is done, unless with an error.
        """
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        if awaited:
            self._awaited.add(task)
        task.add_done_callback(self._finish)

    def wake(self) -> None:
        """The scheduler was told something: look again whether the run is over."""
        self._changed.set()

    async def run(self) -> None:
        """From start to end. Raises what went wrong in any of the tasks."""
        await asyncio.gather(*(e.actor.configure.remote(self._settings) for e in self.engines))
        self.scheduler.start({engine.name: engine for engine in self.engines})
        try:
            while not (self.scheduler.finished and not self._awaited) and self._error is None:
                self._check_rewards()
                due = self.scheduler.next_timeout()
                wait = None if due is None else max(0.0, due - asyncio.get_running_loop().time())
                try:
                    await asyncio.wait_for(self._changed.wait(), wait)
                except asyncio.TimeoutError:
                    self.scheduler.tick()
                self._changed.clear()
            if self._error is not None:
                raise self._error
            self._check_rewards()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _check_rewards(self) -> None:
        """Prompts are given up one by one; where that befalls the first batch, all are lost."""
        scheduler = self.scheduler
        first = min(scheduler.config.prompts_per_batch, len(self.rows))
        if not scheduler.batches and scheduler.abandoned >= first:
            raise RuntimeError(
                f"the first {scheduler.abandoned} prompts were given up, since their samples got "
                "no finite reward: try --reward.remote_url on a few of your prompts and labels "
                "by hand; the errors it raised are in the engines' logs"
            )

    def engine_failed(self, engine: RayEngine, error: BaseException) -> None:
        """An engine's call failed: its actor died, or lives on without its vLLM engine."""
        if engine.dead:
            return
        engine.dead = True
        logger.warning("%s failed: %s", engine.name, str(error).strip().splitlines()[0])
        if self._no_restart is not None:
            raise RuntimeError(f"{engine.name} failed, and {self._no_restart()}") from error
        self.deaths_in_a_row[engine.index] += 1
        self.scheduler.on_engine_failed(engine.name)
        if self.deaths_in_a_row[engine.index] > MAX_DEATHS_IN_A_ROW:
            raise RuntimeError(
                f"{engine.name} died {self.deaths_in_a_row[engine.index]} times in a row without "
                "finishing a sample; its log, under Ray's session folder, says why"
            ) from error
        if not isinstance(error, RayActorError):
            ray.kill(engine.actor, no_restart=False)
        self.spawn(self._restart(engine))
        self.wake()

    async def failed_among(self, engines: Sequence[RayEngine]) -> list[RayEngine]:
        """Asks each engine whether it is there; those that are not are given up."""
        answers = await asyncio.gather(
            *(engine.actor.is_alive.remote() for engine in engines), return_exceptions=True
        )
        failed = []
        for engine, answer in zip(engines, answers, strict=True):
            if isinstance(answer, BaseException):
                failed.append(engine)
                self.engine_failed(engine, answer)
        return failed

    async def _restart(self, engine: RayEngine) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _RESTART_SECONDS
        while True:
            try:
                await engine.actor.configure.remote(self._settings)
                break
            except ActorDiedError:
                raise
            except ActorUnavailableError:
                if loop.time() > deadline:
                    raise
                await asyncio.sleep(1)
        newcomer = RayEngine(self, engine.actor, engine.index, engine.restarts + 1)
        self.engines[engine.index] = newcomer
        logger.warning("%s is back as %s", engine.name, newcomer.name)
        self.scheduler.on_engine_joined(newcomer.name, newcomer)
        self.wake()

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._awaited.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error
        self.wake()
