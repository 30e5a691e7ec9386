"""The driver on a real Ray cluster, with engines whose processes are killed.

The fake is the engine alone: a plain Ray actor with the methods of `VersionedRollout` that streams
made-up responses at once, where vLLM would need a minute for each of its lives. The trainer is a
stub that writes down what it trains and gives the fakes their version. Scheduler, driver, actors,
their deaths and Ray's restarts are real.
"""

import asyncio
import collections
import signal
import threading
import time
from types import SimpleNamespace

import pytest
import ray
import torch
from openrlhf.trainer.ppo_utils.experience import Experience

from vespo_openrlhf.bridge import driver as driver_module
from vespo_openrlhf.bridge import plug
from vespo_openrlhf.bridge.driver import Driver, PromptRow
from vespo_openrlhf.bridge.errors import StoppedError
from vespo_openrlhf.bridge.events import Generated, Scored
from vespo_openrlhf.bridge.wire import Rollout
from vespo_openrlhf.scheduling import LagOptions, PromptLedger, Scheduler, SchedulerConfig, setbacks

SAMPLES = 2
ENGINE_TIMEOUT = 3.0
GROUPS = 1100  # more than the 1,000 calls that Ray lets into an asynchronous actor


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def no_long_waits(monkeypatch) -> None:
    """For an actor that cannot give itself up, and for rewards that have stopped."""
    monkeypatch.setattr(driver_module, "_GIVE_UP_SECONDS", 2.0)
    monkeypatch.setattr(setbacks, "FIRST_DELAY", 0.1)
    monkeypatch.setattr(setbacks, "LAST_DELAY", 0.5)


@pytest.fixture
def engine_class(tmp_path):
    """The fake, made here so that Ray sends it by value: nothing is imported as `tests`.

    What a prompt says happens to it, the first time that it is seen; `twice`, `always` every time.
    """

    class FakeEngine:
        def __init__(self) -> None:
            self.version = 0
            self.config = None
            self.held = 0
            self.working = None  # an engine that hangs shows the same for ever

        async def configure(self, config) -> None:
            import time

            hangs = tmp_path / "configure hangs"
            if hangs.exists() and (tmp_path / "row-1").exists():  # not at the start
                hangs.unlink()
                time.sleep(600)
            self.config = config

        async def is_alive(self) -> None:
            pass

        async def progress(self):
            if self.held == GROUPS:
                self.held = 0  # a call has come through beside so many groups
            return self.working

        async def give_up(self) -> None:
            import os

            os._exit(1)

        async def end_update(self, version: int) -> None:
            self.version = version

        async def abort_group(self, ticket: int) -> None:
            pass

        async def stream_group(self, ticket, prompt, label, images, samples):
            import asyncio
            import os
            import time

            assert self.config == "config"
            what, _, again = prompt.partition(" ")
            seen = tmp_path / label
            if again != "always":
                times = seen.read_text() if seen.exists() else ""
                what = what if len(times) < (2 if again == "twice" else 1) else ""
                seen.write_text(times + "I")
            for sample in range(samples):
                await asyncio.sleep(0.01)
                # "kill": when the first sample has been streamed and scored; "poison": before.
                if what == ("kill" if sample else "poison"):
                    os.kill(os.getpid(), signal.SIGKILL)
                if sample and what == "break":  # vLLM's core is gone, and its actor is not
                    raise RuntimeError("EngineDeadError")
                yield [Generated(sample, ((self.version, 5),))]
                if what == "held":
                    self.held += 1
                    while self.held:
                        await asyncio.sleep(0.1)
                if what == "hang":  # its core is stopped: the actor answers, and no token comes
                    self.working = "hangs"
                    await asyncio.sleep(600)
                if what == "block":  # an environment that works on the event loop, and never ends
                    time.sleep(600)
                if sample and what == "silent":
                    await asyncio.sleep(600)
                if what == "worthless" or (tmp_path / "no rewards").exists():
                    yield [Scored(sample, None, None)]
                    continue
                experience = Experience(labels=[label], info={})
                experts = torch.zeros(2**16, dtype=torch.uint8)  # so many are parked
                yield [Scored(sample, 1.0, Rollout(experience, (), experts))]

    return ray.remote(max_restarts=-1, num_cpus=0, max_concurrency=plug._CALLS)(FakeEngine)


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
                    if payload is not None:
                        assert payload.experience.labels == [f"row-{group.prompt.row}"]
                        assert isinstance(payload.routed_experts, ray.ObjectRef)
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


def run(
    engine_class,
    prompts: list[str],
    engines: int,
    after_batch=lambda scheduler: None,
    no_restart=None,
    recorder=None,
    **options,
) -> tuple[StubTrainer, Scheduler]:
    settings = {
        "prompts_per_batch": 4,
        "samples_per_prompt": SAMPLES,
        "updates_per_batch": 2,
        "in_flight_per_engine": 4,
        "lag": LagOptions(max=7),
        "partial_rollout": True,
        "reward_timeout": 2.0,
    }
    config = SchedulerConfig(**settings | options)
    ledger = PromptLedger([f"p{row}" for row in range(len(prompts))])
    trainer = StubTrainer()

    async def save() -> None:
        await asyncio.sleep(0.5)
        trainer.saved += 1

    def on_batch(report) -> None:
        after_batch(scheduler)
        trainer.driver.spawn(save(), awaited=True)

    scheduler = Scheduler(config, ledger, trainer, clock=time.monotonic, on_batch=on_batch)
    rows = [PromptRow(prompt, f"row-{row}", None) for row, prompt in enumerate(prompts)]
    actors = [engine_class.remote() for _ in range(engines)]

    async def main() -> None:
        trainer.driver = Driver(
            *(scheduler, rows, actors, "config", ENGINE_TIMEOUT),
            no_restart=no_restart,
            recorder=recorder,
        )
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
    prompts[12] = "silent always"  # it may be in flight on an engine that dies
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


def test_what_goes_wrong_beside_the_engines_ends_the_run(engine_class) -> None:
    """A shard that cannot be written, found while no engine delivers."""

    def full() -> None:
        raise OSError("no room")

    recorder = SimpleNamespace(begin=lambda *_: None, write_old=full)
    with pytest.raises(OSError, match="no room"):
        run(engine_class, [""] * 400, engines=1, recorder=recorder)


def test_an_engine_that_never_gets_better_ends_the_run(engine_class, monkeypatch) -> None:
    monkeypatch.setattr(driver_module, "MAX_DEATHS_IN_A_ROW", 1)
    with pytest.raises(RuntimeError, match=r"engine-0\.1 died 2 times in a row"):
        run(engine_class, ["poison always"], engines=1)


@pytest.mark.parametrize("what", ["hang", "block"])
def test_an_engine_that_hangs_is_started_again_and_costs_no_prompt(engine_class, what) -> None:
    prompts = [""] * 12
    prompts[5] = what
    trainer, _ = run(engine_class, prompts, engines=1)
    assert sorted(trainer.trained) == list(range(12))
    assert trainer.driver.engines[0].name == "engine-0.1"


def test_an_engine_that_is_gone_for_good_leaves_the_run_to_the_others(engine_class) -> None:
    """A node that is lost, say. The fake's actor is not restarted, as if it found no place."""
    prompts = [""] * 16
    prompts[5] = "kill"
    mortal = engine_class.options(max_restarts=0)
    trainer, _ = run(mortal, prompts, engines=2)
    assert sorted(trainer.trained) == list(range(16))
    assert len(trainer.driver.living) == 1


def test_an_engine_that_is_given_up_does_not_answer_for_its_next_life(
    engine_class, monkeypatch
) -> None:
    """Ray kills an actor some time after it was told to."""
    kill = ray.kill

    def late(actor, no_restart=True) -> None:
        if no_restart:
            kill(actor)
        else:
            threading.Timer(0.5, kill, [actor], {"no_restart": False}).start()

    monkeypatch.setattr(ray, "kill", late)
    trainer, _ = run(engine_class, ["", "break", *[""] * 200], engines=1)
    assert sorted(trainer.trained) == list(range(202))
    assert trainer.driver.engines[0].name == "engine-0.1"


def test_an_engine_that_hangs_as_it_comes_back_is_started_once_more(engine_class, tmp_path) -> None:
    (tmp_path / "configure hangs").touch()
    trainer, _ = run(engine_class, ["", "kill", *[""] * 10], engines=1)
    assert sorted(trainer.trained) == list(range(12))
    assert not (tmp_path / "configure hangs").exists()


def test_an_engine_that_may_come_back_is_waited_for_when_another_is_gone_for_good(
    engine_class,
) -> None:
    """The prompt that kills one is sent to the other as soon as that is known."""
    kinds = iter([engine_class, engine_class.options(max_restarts=0)])
    mixed = SimpleNamespace(remote=lambda: next(kinds).remote())
    trainer, _ = run(mixed, ["poison twice", *[""] * 11], engines=2)
    assert sorted(trainer.trained) == list(range(12))
    assert [engine.name for engine in trainer.driver.living] == ["engine-0.1"]


def test_a_checkpoint_that_is_being_saved_is_whole_before_the_run_is_stopped(
    engine_class, tmp_path
) -> None:
    async def save(scheduler: Scheduler) -> None:
        while scheduler.hopeless is None:
            await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        (tmp_path / "saved").touch()

    def stop(scheduler: Scheduler) -> None:
        if scheduler.batches == 1:
            (tmp_path / "no rewards").touch()
            scheduler._trainer.driver.spawn(save(scheduler), awaited=True)

    with pytest.raises(StoppedError):
        run(engine_class, [""] * 400, engines=2, after_batch=stop)
    assert (tmp_path / "saved").exists()


def test_the_log_says_why_an_engine_failed(engine_class, caplog) -> None:
    run(engine_class, ["", "break", "", ""], engines=1)
    assert "engine-0 failed: EngineDeadError" in caplog.text


def test_an_engine_may_hold_more_groups_than_ray_has_slots(engine_class) -> None:
    """And still answer other calls, such as an update's: here no group ends before it did."""
    prompts = ["held"] * GROUPS
    sizes = {"prompts_per_batch": GROUPS, "samples_per_prompt": 1, "updates_per_batch": 1}
    lag = LagOptions(max=0)
    more = {"in_flight_per_engine": GROUPS, "lag": lag, "reward_timeout": 200.0}
    trainer, _ = run(engine_class, prompts, engines=1, **sizes, **more)
    assert len(trainer.trained) == GROUPS


def test_a_reward_that_stops_in_mid_run_ends_the_run_and_spares_the_data(
    engine_class, tmp_path
) -> None:
    seen = []

    def stop(scheduler: Scheduler) -> None:
        (tmp_path / "no rewards").touch()
        seen.append(scheduler)

    with pytest.raises(StoppedError, match="16 prompts in a row got no finite reward"):
        run(engine_class, [""] * 400, engines=2, after_batch=stop)
    (account,) = seen[0].ledger.account()
    assert not account["abandoned"]
    assert account["undrawn"] > 300


def test_a_reward_that_comes_back_costs_no_prompt(engine_class, tmp_path) -> None:
    async def come_back() -> None:
        await asyncio.sleep(1)
        (tmp_path / "no rewards").unlink()

    def stop(scheduler: Scheduler) -> None:
        if scheduler.batches == 2:
            (tmp_path / "no rewards").touch()
            tasks.append(asyncio.ensure_future(come_back()))

    tasks: list[asyncio.Task] = []
    trainer, _ = run(engine_class, [""] * 60, engines=2, after_batch=stop)
    assert tasks
    assert sorted(trainer.trained) == list(range(60))


def test_a_reward_that_never_works_ends_the_run(engine_class) -> None:
    with pytest.raises(StoppedError, match="got no finite reward"):
        run(engine_class, ["worthless always"] * 40, engines=1)


def test_where_no_engine_can_be_started_again_the_first_death_ends_the_run(engine_class) -> None:
    with pytest.raises(RuntimeError, match="engine-0 failed, and the GPU is the trainer's"):
        run(engine_class, ["", "kill", ""], 1, no_restart=lambda: "the GPU is the trainer's")
