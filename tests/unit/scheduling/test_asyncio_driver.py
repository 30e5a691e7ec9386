"""The scheduler under asyncio, the way the Ray side drives it: each call starts a task."""

import asyncio
import itertools
import random
import time

from vespo_openrlhf.scheduling import (
    LagOptions,
    PromptLedger,
    Scheduler,
    SchedulerConfig,
    TokenVersions,
)


class Driver:
    """Engines that die now and then, and a trainer, as asyncio tasks."""

    def __init__(self) -> None:
        self.dice = random.Random(0)
        self.tasks: set[asyncio.Task] = set()
        self.born = itertools.count()
        self.engines: dict[str, Engine] = {}
        self.trained: list[str] = []
        self.mixed = 0
        config = SchedulerConfig(4, 2, 2, 8, LagOptions(max=6), partial_rollout=True)
        ledger = PromptLedger([f"p{i}" for i in range(60)])
        self.scheduler = Scheduler(config, ledger, self, clock=time.monotonic)
        self.event = asyncio.Event()

    def new_engine(self) -> "Engine":
        engine = Engine(self, f"engine-{next(self.born)}")
        self.engines[engine.name] = engine
        return engine

    def spawn(self, work) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self.done)

    def done(self, task: asyncio.Task) -> None:
        self.tasks.discard(task)
        task.result()
        self.event.set()

    def train(self, step) -> None:
        async def work():
            await asyncio.sleep(0.001)
            for mini_batch in step.batch.mini_batches[step.first : step.last]:
                self.trained += [group.prompt.name for group in mini_batch]
                self.mixed += sum(len(spans) > 1 for group in mini_batch for spans in group.spans)
            self.scheduler.on_trained()

        self.spawn(work())

    def publish(self, version, engines) -> None:
        async def work():
            await asyncio.sleep(0.0005)
            for name in engines:
                if name in self.engines:
                    self.engines[name].update(version)
                    self.scheduler.on_engine_updated(name, version)

        self.spawn(work())

    async def run(self) -> None:
        engines = [self.new_engine() for _ in range(2)]
        self.scheduler.start({engine.name: engine for engine in engines})
        while not self.scheduler.finished:
            await asyncio.wait_for(self.event.wait(), timeout=20)
            self.event.clear()

    def replace(self, engine: "Engine") -> None:
        del self.engines[engine.name]
        self.scheduler.on_engine_failed(engine.name)
        newcomer = self.new_engine()
        self.scheduler.on_engine_joined(newcomer.name, newcomer)


class Engine:
    def __init__(self, driver: Driver, name: str) -> None:
        self.driver = driver
        self.name = name
        self.versions = TokenVersions(0)
        self.tokens: dict[tuple[int, int], int] = {}

    def update(self, version: int) -> None:
        self.versions.update(version, self.tokens)

    def generate(self, request) -> None:
        for sample in range(request.samples):
            self.driver.spawn(self.decode(request.ticket, sample))

    def abort(self, ticket) -> None:
        """Nothing is dropped here."""

    async def decode(self, ticket: int, sample: int) -> None:
        self.tokens[ticket, sample] = 0
        for _ in range(self.driver.dice.randint(1, 8)):
            await asyncio.sleep(0.0005)
            self.tokens[ticket, sample] += 1
        if self.name not in self.driver.engines:
            return
        if self.driver.dice.random() < 0.02:
            self.driver.replace(self)
            return
        spans = self.versions.finish((ticket, sample), self.tokens.pop((ticket, sample)))
        self.driver.scheduler.on_generated(ticket, sample, spans, "text")
        await asyncio.sleep(0.0005)
        if self.name in self.driver.engines:
            self.driver.scheduler.on_scored(ticket, sample, 1.0)


def test_every_prompt_is_trained_once() -> None:
    async def go() -> Driver:
        driver = Driver()
        await driver.run()
        return driver

    driver = asyncio.run(go())
    ledger = driver.scheduler.ledger
    assert sorted(driver.trained) == sorted(ledger.names_with("trained", 0))
    assert len(driver.trained) + len(ledger.names_with("abandoned", 0)) == 60
    assert next(driver.born) > 2
    assert driver.mixed
