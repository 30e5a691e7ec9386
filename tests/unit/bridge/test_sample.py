"""How long a sample may be where, and whose a request is."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from vespo_openrlhf.agents import calling
from vespo_openrlhf.bridge.errors import LostSampleError
from vespo_openrlhf.bridge.events import Away, Back, Generated, SampleLimits, Scored, told_at_once
from vespo_openrlhf.bridge.samples.sample import Sample

LIMITS = SampleLimits(episode_timeout=60.0, away_timeout=60.0)


def play(work: Callable[[Sample], Any], limits: SampleLimits = LIMITS) -> tuple[Any, list[Any]]:
    """What `work` comes to, and when the sample was away ("away") or back (a version)."""
    told: list[Any] = []

    async def run() -> Any:
        sample = Sample(3, limits)
        sample.on_away, sample.on_back = lambda: told.append("away"), told.append
        return await asyncio.wait_for(sample.play(work(sample)), 30)

    return asyncio.run(run()), told


def test_one_that_asks_for_itself_is_as_old_as_its_first_request() -> None:
    """And not as its environment's first word."""

    async def run() -> list[int]:
        sample, told = Sample(3, LIMITS, asks_itself=True), []
        sample.on_back = told.append

        async def episode() -> None:
            await request(version=5)
            await request(version=7)

        await sample.play(episode())
        assert sample.version == 5
        return told

    assert asyncio.run(run()) == [5, 5]


async def request(seconds: float = 0.0, version: int = 3) -> None:
    """As the engine takes it."""
    sample = Sample.current()
    assert sample is not None
    with sample.on_engine(version):
        await asyncio.sleep(seconds)


def test_a_sample_is_away_but_for_its_requests() -> None:
    async def episode(_: Sample) -> str:
        await request(version=3)
        await asyncio.gather(request(0.02, version=4), request(version=4))  # two at once
        return "done"

    assert play(episode) == ("done", ["away", 3, "away", 3, "away"])


def test_an_environment_that_hangs_costs_its_sample_and_no_more() -> None:
    ended = []

    async def episode(_: Sample) -> None:
        await request()
        try:
            await asyncio.sleep(600)
        finally:
            ended.append(True)

    limits = SampleLimits(60.0, 0.1, "tool_timeout")
    with pytest.raises(LostSampleError, match=r"no word from its reward or .* for 0\.1 s") as lost:
        play(episode, limits)
    assert lost.value.reason == "tool_timeout"
    assert ended  # it was told


def test_time_on_the_engine_is_not_the_environments() -> None:
    async def episode(_: Sample) -> str:
        for _ in range(2):
            await request(0.3)
        return "done"

    assert play(episode, SampleLimits(60.0, 0.2))[0] == "done"


def test_a_request_that_may_be_its_own_is_not_its_environments_time() -> None:
    """An executor's own server asks for it, and nobody knows for whom."""

    async def episode(sample: Sample) -> str:
        for _ in range(2):
            with sample.perhaps_on_engine():
                await asyncio.sleep(0.3)
            await asyncio.sleep(0.12)
        return "done"

    assert play(episode, SampleLimits(60.0, 0.2)) == ("done", ["away"])


def test_a_generation_that_hangs_is_bounded_too() -> None:
    async def episode(_: Sample) -> None:
        await request(600)

    with pytest.raises(LostSampleError, match=r"--rollout\.episode_timeout") as lost:
        play(episode, SampleLimits(0.1, 60.0))
    assert lost.value.reason == "episode_timeout"


@pytest.mark.parametrize("catches", [False, True])
def test_a_turn_too_many_ends_the_sample_whatever_its_executor_does(catches: bool) -> None:
    asked = []

    async def episode(_: Sample) -> None:
        while True:
            try:
                await request()
                asked.append(True)
            except Exception:
                if not catches:
                    raise
                await asyncio.sleep(0)

    with pytest.raises(LostSampleError, match="no end after 3 turns") as lost:
        play(episode, SampleLimits(60.0, 60.0, max_turns=3))
    assert lost.value.reason == "max_turns"
    assert len(asked) == 3


class PanicError(BaseException):
    """As a library of Rust's raises."""


@pytest.mark.parametrize("raised", [asyncio.CancelledError, SystemExit, PanicError])
def test_whatever_an_executor_raises_is_the_samples_own_trouble(raised) -> None:
    """A cancellation that nobody asked for would leave its group without a word, for ever."""

    async def episode(_: Sample) -> None:
        await request()
        raise raised

    with pytest.raises(RuntimeError, match="an agent raised"):
        play(episode)


def test_a_request_is_of_the_sample_in_whose_task_it_is_made() -> None:
    """Not of whoever was given the engine first; and of nobody, where nobody can know."""
    found: dict[str, Sample | None] = {}

    async def look(name: str) -> None:
        found[name] = Sample.current()

    def elsewhere() -> None:
        asyncio.run(look("another thread"))

    async def episode(sample: Sample) -> None:
        await look("itself")
        await asyncio.create_task(look("a task of its own"))
        await asyncio.to_thread(lambda: asyncio.run(look("a thread of its own")))
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        found["sample"] = sample
        started = asyncio.get_running_loop().create_future()

        async def worker() -> None:
            await started
            await look("a task that outlives it")

        tasks.append((asyncio.create_task(worker()), started))

    tasks: list[Any] = []

    async def run() -> None:
        sample = Sample(0, LIMITS)
        await sample.play(episode(sample))
        ((task, started),) = tasks
        started.set_result(None)
        await task

    asyncio.run(run())
    sample = found.pop("sample")
    own = {"itself", "a task of its own", "a thread of its own"}
    assert {name for name, of in found.items() if of is sample} == own
    assert {name for name, of in found.items() if of is None} == set(found) - own


def test_the_driver_is_not_told_of_moments() -> None:
    scored = Scored(0, 1.0, None)
    events = [Away(0), Away(1), Back(0, 2), Generated(2, ()), Away(0), scored, Back(1, 2), Away(1)]
    assert told_at_once(events) == [Generated(2, ()), Away(0), scored, Away(1)]
    assert told_at_once([Back(0, 1), Away(0)]) == [Back(0, 1), Away(0)]
    assert told_at_once([Away(0), Generated(0, ()), Back(0, 1)]) == [
        *(Away(0), Generated(0, ()), Back(0, 1))
    ]


def test_an_executor_that_cancels_itself_fails_where_python_cannot_tell_who_did(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As before Python 3.11: its sample would be taken for aborted, and never be reported."""
    monkeypatch.setattr(calling, "_was_asked_for", lambda: True)

    async def episode(_: Sample) -> None:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="has cancelled itself"):
        play(episode)
