"""The driver on a real Ray cluster, with engines whose processes are killed.

The fake is the engine alone: a plain Ray actor with the methods of `VersionedRollout` that streams
made-up responses at once, where vLLM would need a minute for each of its lives. The trainer is a
stub that writes down what it trains and gives the fakes their version. Scheduler, driver, actors,
their deaths and Ray's restarts are real.
"""

import asyncio
import collections
import signal
import time

import pytest
import ray

from vespo_openrlhf.bridge import driver as driver_module
from vespo_openrlhf.bridge.driver import Driver, PromptRow
from vespo_openrlhf.bridge.events import Generated, Rollout, Scored
from vespo_openrlhf.scheduling import LagOptions, PromptLedger, Scheduler, SchedulerConfig

SAMPLES = 2


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def engine_class(tmp_path):
    """The fake, made here so that Ray sends it by value: nothing is imported as `tests`.

    What a prompt says happens to it, the first time that it is seen; `always` every time.
    """

    class FakeEngine:
        def __init__(self) -> None:
            self.version = 0
            self.settings = None

        async def configure(self, settings) -> None:
            self.settings = settings

        async def is_alive(self) -> None:
            pass

        async def end_update(self, version: int) -> None:
            self.version = version

        async def abort_group(self, ticket: int) -> None:
            pass

        async def stream_group(self, ticket, prompt, label, images, samples):
            import asyncio
            import os

            assert self.settings == "settings"
            what, _, again = prompt.partition(" ")
            seen = tmp_path / label
            if again != "always":
                what = what if not seen.exists() else ""
                seen.touch()
            for sample in range(samples):
                await asyncio.sleep(0.01)
                # "kill": when the first sample has been streamed and scored; "poison": before.
                if what == ("kill" if sample else "poison"):
                    os.kill(os.getpid(), signal.SIGKILL)
                if sample and what == "break":  # vLLM's core is gone, and its actor is not
                    raise RuntimeError("EngineDeadError")
                yield Generated(sample, ((self.version, 5),))
                if sample and what == "silent":
                    await asyncio.sleep(600)
                if what == "worthless":
                    yield Scored(sample, None, None)
                    continue
                yield Scored(sample, 1.0, Rollout(label, (f"{ticket}/{sample}",)))

    return ray.remote(max_restarts=-1, num_cpus=0)(FakeEngine)


class StubTrainer:
    """Trains by writing down, and publishes by telling each fake its version."""

    def __init__(self) -> None:
        self.driver: Driver
        self.trained: list[int] = []
        self.engines: set[str] = set()
        self.rewards: dict[int, list] = {}
        self.saved = 0

    def train(self, step) -> None:
        self.driver.spawn(self._train(step))

    async def _train(self, step) -> None:
        await asyncio.sleep(0.01)
        for j in range(step.first, step.last):
            for group in step.batch.mini_batches[j]:
                self.trained.append(group.prompt.row)
                self.engines.add(group.engine)
                self.rewards[group.prompt.row] = group.rewards
                for payload, reward in zip(group.payloads, group.rewards, strict=True):
                    assert (payload is None) == (reward is None)
                    assert payload is None or payload.experience == f"row-{group.prompt.row}"
        self.driver.scheduler.on_trained()
        self.driver.wake()

    def publish(self, version: int, engines) -> None:
        self.driver.spawn(self._publish(version, engines))

    async def _publish(self, version: int, names) -> None:
        for engine in self.driver.by_name(names):
            try:
                await engine.actor.end_update.remote(version)
            except ray.exceptions.RayError as error:
                self.driver.engine_failed(engine, error)
            else:
                self.driver.scheduler.on_engine_updated(engine.name, version)
        self.driver.wake()


def run(engine_class, prompts: list[str], engines: int, **options) -> tuple[StubTrainer, Scheduler]:
    config = SchedulerConfig(
        prompts_per_batch=4,
        samples_per_prompt=SAMPLES,
        updates_per_batch=2,
        in_flight_per_engine=4,
        lag=LagOptions(max=7),
        partial_rollout=True,
        reward_timeout=2.0,
    )
    ledger = PromptLedger([f"p{row}" for row in range(len(prompts))])
    trainer = StubTrainer()

    async def save() -> None:
        await asyncio.sleep(0.5)
        trainer.saved += 1

    def on_batch(report) -> None:
        trainer.driver.spawn(save(), awaited=True)

    scheduler = Scheduler(config, ledger, trainer, clock=time.monotonic, on_batch=on_batch)
    rows = [PromptRow(prompt, f"row-{row}", None) for row, prompt in enumerate(prompts)]
    actors = [engine_class.remote() for _ in range(engines)]

    async def main() -> None:
        trainer.driver = Driver(scheduler, rows, actors, "settings", **options)
        await asyncio.wait_for(trainer.driver.run(), 240)

    try:
        asyncio.run(main())
    finally:
        for actor in actors:
            ray.kill(actor)
    return trainer, scheduler


def test_engines_that_die_in_mid_group_cost_no_prompt(engine_class) -> None:
    prompts = [""] * 26
    prompts[1] = prompts[9] = "kill"
    prompts[6] = "break"
    prompts[12] = "silent"
    trainer, scheduler = run(engine_class, prompts, engines=2)
    assert collections.Counter(trainer.trained) == dict.fromkeys(range(26), 1)
    (account,) = scheduler.ledger.account()
    assert account == {
        **{"trained": 26, "undrawn": 0},
        **{"filtered": [], "abandoned": [], "outstanding": []},
    }
    restarts = sum(engine.restarts for engine in trainer.driver.engines)
    assert restarts <= 3  # the last may not be back before the end
    assert trainer.rewards.pop(12) == [1.0, None]
    assert all(rewards == [1.0, 1.0] for rewards in trainer.rewards.values())


def test_an_only_engine_is_restarted_and_goes_on(engine_class) -> None:
    prompts = ["", "kill", "", "", "", "", "", ""]
    trainer, _ = run(engine_class, prompts, engines=1)
    assert sorted(trainer.trained) == list(range(8))
    assert trainer.driver.engines[0].name == "engine-0.1"
    assert "engine-0.1" in trainer.engines


def test_the_run_ends_when_the_last_batch_is_saved(engine_class) -> None:
    trainer, scheduler = run(engine_class, [""] * 9, engines=1)
    assert trainer.saved == scheduler.batches == 3


def test_an_engine_that_never_gets_better_ends_the_run(engine_class, monkeypatch) -> None:
    monkeypatch.setattr(driver_module, "MAX_DEATHS_IN_A_ROW", 1)
    with pytest.raises(RuntimeError, match=r"engine-0\.1 died 2 times in a row"):
        run(engine_class, ["poison always"], engines=1)


@pytest.mark.parametrize("prompts", [3, 12])
def test_a_reward_that_never_works_ends_the_run(engine_class, prompts: int) -> None:
    with pytest.raises(RuntimeError, match="got no finite reward"):
        run(engine_class, ["worthless always"] * prompts, engines=1)


def test_where_no_engine_can_be_started_again_the_first_death_ends_the_run(engine_class) -> None:
    with pytest.raises(RuntimeError, match="engine-0 failed, and the GPU is the trainer's"):
        run(engine_class, ["", "kill", ""], 1, no_restart=lambda: "the GPU is the trainer's")
