"""The scheduler over Ray: engines as actors, and one event loop on which everything is decided.

A dead engine actor is restarted by Ray in its old place. Its groups are sent to others meanwhile,
and it joins again under a new name as soon as it answers; the trainer then gives it weights. An
engine that hangs is made a dead one: no call to it is waited for without an end, and one that has
work must show new tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayActorError, RayError

from vespo_openrlhf.bridge.errors import StoppedError, UntoldExpertsError
from vespo_openrlhf.bridge.events import Away, Back, Event, Generated, RolloutConfig, Scored
from vespo_openrlhf.scheduling import Engine, Request, Scheduler

if TYPE_CHECKING:
    from vespo_openrlhf.bridge.samples.recorder import Recorder

# After more deaths in a row, without a finished sample between them, the run ends.
MAX_DEATHS_IN_A_ROW = 4
# How long the run waits for an engine where there is none. While others work, without an end.
_RESTART_SECONDS = 30 * 60
# How long the actor of an engine that hangs may take to kill the engine's core.
_GIVE_UP_SECONDS = 5.0
# After as long without a batch, the log says what is going on.
_STATUS_SECONDS = 60.0

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
        recorder = self._driver.recorder
        record = recorder and recorder.begin(request, row.prompt, row.label, self.name)
        stream = self.actor.stream_group.options(num_returns="streaming")
        try:
            async for reference in stream.remote(request.ticket, *row, request.samples):
                news = await reference
                if self.dead:
                    return
                for event in news:
                    if recorder and record:
                        recorder.take(record, event)
                    self._tell(scheduler, request.ticket, event)
                self._driver.wake()
        except UntoldExpertsError:
            raise
        except RayError as error:
            self._driver.engine_failed(self, error)

    def _tell(self, scheduler: Scheduler, ticket: int, event: Event) -> None:
        match event:
            case Away(sample):
                scheduler.on_away(ticket, sample)
            case Back(sample, version):
                scheduler.on_back(ticket, sample, version)
            case Generated(sample, spans):
                scheduler.on_generated(ticket, sample, spans)
            case Scored(sample, reward, rollout, reason):
                self._driver.deaths_in_a_row[self.index] = 0
                rollout = rollout and rollout.parked()
                scheduler.on_scored(ticket, sample, reward, rollout, reason)


class Driver:
    """Runs a scheduler to its end on the event loop of the moment.

    Args:
        scheduler: the scheduler; its trainer spawns its work here.
        rows: the data set, by row.
        actors: the rollout actors, with the weights of version 0.
        config: what all responses have in common.
        engine_timeout: seconds without an answer or a new token that make an engine a dead one.
        no_restart: where an engine that fails ends the run, says why.
        recorder: keeps what the engines deliver.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        rows: Sequence[PromptRow],
        actors: Sequence[Any],
        config: RolloutConfig,
        engine_timeout: float,
        no_restart: Callable[[], str] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.recorder = recorder
        self.scheduler = scheduler
        self.rows = rows
        self.engines = [RayEngine(self, actor, i) for i, actor in enumerate(actors)]
        self.deaths_in_a_row = [0] * len(self.engines)
        # Once for all: a tokenizer of a large vocabulary is megabytes.
        self._config = ray.put(config)
        self._no_restart = no_restart
        self._restarting = 0  # engines that may come back
        self._tasks: set[asyncio.Task[None]] = set()
        self._awaited: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None
        self._changed = asyncio.Event()
        self._engine_timeout = engine_timeout

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

    async def run(self, engines: Mapping[str, Engine] | None = None) -> None:
        """From start to end.

        Args:
            engines: those that the scheduler sends prompts to, by name, in the place of the actors.

        Raises:
            StoppedError: rewards or filtering leave nothing to train.
            PolicyError: the policy's answer cannot be carried out.
            Exception: what went wrong in any of the tasks.
        """
        await asyncio.gather(*(e.actor.configure.remote(self._config) for e in self.engines))
        own: Mapping[str, Engine] = {engine.name: engine for engine in self.engines}
        self.scheduler.start(own if engines is None else engines)
        for engine in self.engines:
            self.spawn(self._watch(engine))
        self.spawn(self._report_status())
        try:
            while not (self.scheduler.finished and not self._awaited) and self._error is None:
                if not self._awaited:  # the run would end without the checkpoint being saved
                    self._check_hope()
                await self._wait()
            if self._error is not None:
                raise self._error
            self._check_hope()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _wait(self) -> None:
        """For the next event, or for the moment at which the scheduler wants to be asked."""
        due, now = self.scheduler.next_timeout(), asyncio.get_running_loop().time()
        if due is not None and due <= now:
            self.scheduler.tick()
            return
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._changed.wait(), None if due is None else due - now)
        self._changed.clear()

    def _check_hope(self) -> None:
        if (reason := self.scheduler.hopeless) is not None:
            raise StoppedError(
                f"{reason}: the run is stopped before it burns the rest of the data. The model is "
                "written as it is, and the last checkpoint is whole: mend the cause and go on with "
                "--ckpt.load_enable. Of a reward, try --reward.remote_url on a few of your prompts "
                "and labels by hand: the errors it raised are in the engines' logs. Of a filter, "
                "look at --algo.dynamic_filtering_range and at whether the model is ever right"
            )

    async def _report_status(self) -> None:
        """A line in the log whenever a minute goes by without a batch."""
        batches = -1
        while True:
            if batches == self.scheduler.batches:
                logger.info("no batch for a minute: %s", self.scheduler.status())
            batches = self.scheduler.batches
            if self.recorder is not None:
                self.recorder.write_old()
            await asyncio.sleep(_STATUS_SECONDS)

    async def ask(
        self, engines: Sequence[RayEngine], method: str, *args: Any, **kwargs: Any
    ) -> list[RayEngine]:
        """Call all of them; those that have died or do not answer are given up and left out."""
        return list(await self.answers(engines, method, *args, **kwargs))

    async def answers(
        self, engines: Sequence[RayEngine], method: str, *args: Any, **kwargs: Any
    ) -> dict[RayEngine, Any]:
        """As `ask`, with what they answer."""
        calls = [getattr(engine.actor, method).remote(*args, **kwargs) for engine in engines]
        answers = await asyncio.gather(*map(self._answer, calls), return_exceptions=True)
        alive = {}
        for engine, answer in zip(engines, answers, strict=True):
            if isinstance(answer, BaseException):
                self.engine_failed(engine, answer)
            elif not engine.dead:
                alive[engine] = answer
        return alive

    async def _answer(self, call: Any) -> Any:
        try:
            return await asyncio.wait_for(call, self._engine_timeout)
        except asyncio.TimeoutError:
            raise TimeoutError(f"no answer within {self._engine_timeout:g} s") from None

    async def _watch(self, engine: RayEngine) -> None:
        """Give the engine up when it has work and shows no new token for too long."""
        loop = asyncio.get_running_loop()
        seen, since = None, loop.time()
        while not engine.dead:
            await asyncio.sleep(min(self._engine_timeout / 5, 30))
            try:
                progress = await self._answer(engine.actor.progress.remote())
            except (RayError, TimeoutError) as error:
                self.engine_failed(engine, error)
                return
            if progress is None or progress != seen:
                seen, since = progress, loop.time()
            elif loop.time() - since > self._engine_timeout:
                silence = f"has work, and no new token for {self._engine_timeout:g} s"
                self.engine_failed(engine, TimeoutError(silence))

    def engine_failed(self, engine: RayEngine, error: BaseException) -> None:
        """An engine's call failed: its actor died or hangs, or lives on without its vLLM engine."""
        if engine.dead:
            return
        engine.dead = True
        logger.warning("%s failed: %s", engine.name, _reason(error))
        if self._no_restart is not None:
            raise RuntimeError(f"{engine.name} failed, and {self._no_restart()}") from error
        self.deaths_in_a_row[engine.index] += 1
        self.scheduler.on_engine_failed(engine.name)
        if self.deaths_in_a_row[engine.index] > MAX_DEATHS_IN_A_ROW:
            raise RuntimeError(
                f"{engine.name} died {self.deaths_in_a_row[engine.index]} times in a row without "
                "finishing a sample; its log, under Ray's session folder, says why"
            ) from error
        self._restarting += 1
        self.spawn(self._restart(engine, kill=not isinstance(error, RayActorError)))
        self.wake()

    async def _restart(self, engine: RayEngine, *, kill: bool) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _RESTART_SECONDS
        while True:
            if kill:
                await self._kill(engine.actor)
            try:
                await self._answer(engine.actor.configure.remote(self._config))
                break
            except ActorDiedError as error:
                self._restarting -= 1
                if not self.living and not self._restarting:
                    raise
                logger.warning("%s will not come back: %s", engine.name, _reason(error))
                return
            except (ActorUnavailableError, TimeoutError) as error:
                if self.living:  # its node may be back tomorrow
                    deadline = loop.time() + _RESTART_SECONDS
                elif loop.time() > deadline:
                    raise
                kill = isinstance(error, TimeoutError)
                await asyncio.sleep(1)
        self._restarting -= 1
        newcomer = RayEngine(self, engine.actor, engine.index, engine.restarts + 1)
        self.engines[engine.index] = newcomer
        logger.warning("%s is back as %s", engine.name, newcomer.name)
        self.scheduler.on_engine_joined(newcomer.name, newcomer)
        self.spawn(self._watch(newcomer))
        self.wake()

    async def _kill(self, actor: Any) -> None:
        """End the actor's process, and what it has started.

        By its own hand where it can: Ray kills later than it says, and what asks for the next life
        meanwhile is answered by this one.
        """
        try:
            await asyncio.wait_for(actor.give_up.remote(), _GIVE_UP_SECONDS)
        except RayActorError:
            return  # it is gone
        except (RayError, asyncio.TimeoutError):
            pass
        ray.kill(actor, no_restart=False)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._awaited.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._error = self._error or error
        self.wake()


def _reason(error: BaseException) -> str:
    """In one line. Of what Ray has wrapped, whose own text begins with where it was raised."""
    cause = getattr(error, "cause", None) or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]
