"""The engine actor's parts that need no engine; the whole of it runs in the end-to-end tests."""

import asyncio
import contextlib
import functools
import os
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
from openrlhf.utils.agent import SingleTurnAgentExecutor
from vllm import SamplingParams

from vespo_openrlhf.agents import Agent, Step
from vespo_openrlhf.bridge.agents import EpisodeExecutor
from vespo_openrlhf.bridge.engine import VersionedRollout
from vespo_openrlhf.bridge.errors import LostSampleError
from vespo_openrlhf.bridge.events import Generated, RolloutConfig, SampleLimits, Scored
from vespo_openrlhf.bridge.samples.requests import RequestLog
from vespo_openrlhf.bridge.samples.sample import Sample
from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.scheduling.lag import TokenVersions


def bare_engine(*, errored: bool, configured: bool) -> VersionedRollout:
    """Without vLLM, which would be a minute."""
    engine = object.__new__(VersionedRollout)
    engine.llm = SimpleNamespace(errored=errored)
    engine._config = object() if configured else None
    return engine


def test_an_engine_that_ray_restarted_unnoticed_says_so() -> None:
    """It has the weights of the start, and is in no process group: the trainer must not wait."""
    bare_engine(errored=False, configured=True).is_alive()
    with pytest.raises(RuntimeError, match="engine core is gone"):
        bare_engine(errored=True, configured=True).is_alive()
    with pytest.raises(RuntimeError, match="was restarted"):
        bare_engine(errored=False, configured=False).is_alive()
    begin = bare_engine(errored=False, configured=False).begin_update()
    with pytest.raises(RuntimeError, match="was restarted"):
        begin.send(None)


def test_an_evaluation_whose_reward_hangs_ends() -> None:
    async def execute(**_) -> None:
        await asyncio.sleep(600)

    executor = SingleTurnAgentExecutor()
    executor.execute = execute
    engine = bare_engine(errored=False, configured=True)
    engine._versions, engine.executor = TokenVersions(0), executor
    engine._config = SimpleNamespace(limits=SampleLimits(60.0, 0.1))
    work = engine.generate_responses(2, prompt="p", label="l", sampling_params=SamplingParams())
    with pytest.raises(TimeoutError, match=r"no word from its reward"):
        asyncio.run(asyncio.wait_for(work, 30))


def test_an_episode_that_fails_does_not_end_an_evaluation() -> None:
    """As of an agent whose verifier is busy; unless it is the engine that has failed."""

    class Agent:
        async def execute(self, **_) -> None:
            raise RuntimeError("the verifier has no verdict")

    engine = bare_engine(errored=False, configured=True)
    engine._versions, engine.executor = TokenVersions(0), Agent()
    engine._config = SimpleNamespace(limits=SampleLimits(60.0, 60.0))
    asked = {"prompt": "p", "images": None, "sampling_params": SamplingParams()}
    answers = asyncio.run(engine.generate_responses(2, **asked))
    assert answers == [{"observation_tokens": [], "action_ranges": []}] * 2
    engine.llm.errored = True
    with pytest.raises(RuntimeError, match="no verdict"):
        asyncio.run(engine.generate_responses(2, **asked))


def test_an_engine_that_is_given_up_leaves_nothing_behind() -> None:
    """In a fork of this process, which starts a child and then gives itself up."""
    read, write = os.pipe()
    engine = os.fork()
    if not engine:
        try:
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            os.write(write, str(child.pid).encode())
            VersionedRollout.give_up(None)
            os.write(write, b"still here")
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        child = int(said.read())  # nothing was said after its pid
    assert os.waitstatus_to_exitcode(os.waitpid(engine, 0)[1]) == 1
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"


def test_an_engine_at_rest_shows_no_progress_to_be_missed() -> None:
    engine = bare_engine(errored=False, configured=True)
    engine.llm.output_processor = SimpleNamespace(request_states={})
    engine._generating, engine._paused = 0, False
    assert engine.progress() is None
    engine._generating = 1
    assert engine.progress() is not None
    engine._paused = True
    assert engine.progress() is None


def config() -> RolloutConfig:
    return RolloutConfig(None, SamplingParams(), 64, SampleLimits(60.0, 30.0))


def test_an_engine_that_joins_again_drops_what_it_still_had() -> None:
    engine = bare_engine(errored=False, configured=True)
    engine.executor = None
    aborted = []
    engine._groups = {3: [SimpleNamespace(cancel=lambda: aborted.append(3))]}
    engine.configure(config())
    assert aborted == [3]
    assert not engine._groups


def test_text_that_nobody_reads_is_not_made() -> None:
    """OpenRLHF's single turn makes its text from the tokens; an agent of a user's may not."""

    class Agent(SingleTurnAgentExecutor):
        pass

    made = []
    for executor in (SingleTurnAgentExecutor(), Agent()):
        engine = bare_engine(errored=False, configured=True)
        engine._groups, engine.executor = {}, executor
        engine.configure(config())
        made.append(engine._config.sampling.detokenize)
    assert made == [False, True]


class ScriptedEngine(VersionedRollout):
    """Each sample tells of its generation and its verdict after a delay of its own, or fails."""

    def __init__(self, delays: list[float], fails: int | None = None) -> None:
        self._groups: dict = {}
        self._config = config()
        self._delays, self._fails = delays, fails

    async def _sample(self, index, prompt, label, images, events) -> None:
        await asyncio.sleep(self._delays[index])
        events.put_nowait(Generated(index, ((0, 1),)))
        if index == self._fails:
            events.put_nowait(RuntimeError("the core is gone"))
            return
        events.put_nowait(Scored(index, 1.0, None))


def stream(engine: VersionedRollout, samples: int) -> tuple[list[list], str]:
    told: list[list] = []

    async def read() -> None:
        async for news in engine.stream_group(0, "p", "l", None, samples):
            told.append(news)

    try:
        asyncio.run(read())
    except RuntimeError as error:
        return told, str(error)
    return told, ""


def test_what_happens_at_once_is_told_at_once() -> None:
    told, _ = stream(ScriptedEngine([0.0] * 8), 8)
    (news,) = told
    assert [type(event) for event in news] == [Generated, Scored] * 8


def test_nobody_waits_for_the_slowest() -> None:
    told, _ = stream(ScriptedEngine([0.0, 0.5]), 2)
    assert [[event.sample for event in news] for news in told] == [[0, 0], [1, 1]]


def test_what_happened_before_an_engine_failed_is_told() -> None:
    told, error = stream(ScriptedEngine([0.0, 0.0, 30.0], fails=1), 3)
    assert error == "the core is gone"
    assert [type(event) for news in told for event in news] == [Generated, Scored, Generated]


class RecordingLLM:
    """vLLM's side of an update: what it is asked, and the tokens of the unfinished responses."""

    errored = False

    def __init__(self, counts: dict[str, int]) -> None:
        self.counts = counts
        self.asked: list = []
        self.engine_core = SimpleNamespace(outputs_queue=asyncio.Queue())
        self.output_processor = SimpleNamespace(request_states=self)

    def values(self) -> list:
        return [
            SimpleNamespace(
                external_req_id=name,
                detokenizer=SimpleNamespace(
                    num_output_tokens=functools.partial(self.counts.get, name)
                ),
            )
            for name in self.counts
        ]

    async def pause_generation(self, **options) -> None:
        self.asked.append(options)

    async def resume_generation(self) -> None:
        self.asked.append("resume")

    async def generate(self, prompt, sampling, request_id):
        self.asked.append(prompt)
        token = SimpleNamespace(
            token_ids=[7], logprobs=None, routed_experts=None, finish_reason="stop"
        )
        yield SimpleNamespace(request_id=request_id, outputs=[token])


def engine_of(llm: RecordingLLM, *, keep_kv: bool) -> VersionedRollout:
    engine = object.__new__(VersionedRollout)
    engine.llm, engine._versions = llm, TokenVersions(3)
    engine._generating, engine._paused, engine._mm_pad_token_ids = 0, False, None
    engine._recomputed, engine._recomputing = [], None
    engine._requests, engine.executor = RequestLog(), None
    engine._config = RolloutConfig(None, SamplingParams(), 64, SampleLimits(60.0, 30.0), keep_kv)
    return engine


def test_a_kv_cache_that_is_recomputed_is_dropped_and_timed() -> None:
    llm = RecordingLLM({"a": 5, "b": 2, "new": 0})
    engine = engine_of(llm, keep_kv=False)

    async def updates() -> list[list[tuple[int, float]]]:
        engine._loop = asyncio.get_running_loop()
        measured = [await engine.begin_update()]
        await engine.end_update(4)
        llm.counts = {"a": 6, "new": 0}  # b has ended, and a goes on
        await engine._recomputing
        measured.append(await engine.begin_update())
        await engine.end_update(5)  # and here nothing goes on before the next
        measured.append(await engine.begin_update())
        await engine.generate([1, 2], SamplingParams())
        return measured

    first, second, third = asyncio.run(updates())
    assert first == third == []
    ((tokens, seconds),) = second
    assert tokens == 7
    assert seconds > 0
    assert llm.asked[0] == {"mode": "keep", "clear_cache": True}
    assert "cache_salt" not in llm.asked[-1]


def test_a_kv_cache_that_is_kept_is_nobody_elses_than_its_versions() -> None:
    llm = RecordingLLM({"a": 5})
    engine = engine_of(llm, keep_kv=True)

    async def update() -> None:
        engine._loop = asyncio.get_running_loop()
        await engine.generate([1, 2], SamplingParams())
        await engine.begin_update()
        await engine.end_update(4)
        await engine.generate([1, 2], SamplingParams())

    asyncio.run(update())
    assert llm.asked[1] == {"mode": "keep", "clear_cache": False}
    assert [llm.asked[i]["cache_salt"] for i in (0, -1)] == ["3", "4"]
    assert engine._recomputing is None


def test_an_executors_own_server_may_ask_from_its_thread() -> None:
    """vLLM's queues wake nobody in another event loop."""
    llm = RecordingLLM({})
    engine = engine_of(llm, keep_kv=False)
    loops = []

    async def generate(*args):
        loops.append(asyncio.get_running_loop())
        async for output in RecordingLLM.generate(llm, *args):
            yield output

    async def ask() -> None:
        engine._loop = asyncio.get_running_loop()
        work = engine.generate([1, 2], SamplingParams())
        output = await asyncio.to_thread(asyncio.run, work)
        assert output.outputs[0].token_ids == [7]

    llm.generate = generate
    asyncio.run(ask())
    assert loops == [engine._loop]


@pytest.mark.parametrize("limits", [SampleLimits(0.1, 60.0), SampleLimits(60.0, 60.0, max_turns=3)])
def test_an_executor_that_catches_everything_asks_no_more_when_its_sample_is_over(limits) -> None:
    """It asked for ever, of an engine whose loop had no moment for anything else."""
    asked = []

    class Stubborn:
        async def execute(self, sampling_params, llm_engine, **_) -> None:
            while len(asked) < 2000:
                asked.append(True)
                with contextlib.suppress(BaseException):
                    await llm_engine.generate([1, 2], sampling_params)
                    await asyncio.sleep(0.01)

    engine = engine_of(RecordingLLM({}), keep_kv=False)
    engine.executor = Stubborn()

    async def play() -> None:
        engine._loop = asyncio.get_running_loop()
        sample = Sample(3, limits)
        with pytest.raises(LostSampleError):
            await engine._play(
                sample, {"prompt": "p", "images": None, "sampling_params": SamplingParams()}
            )
        for _ in range(20):
            await asyncio.sleep(0)
        before = len(asked)
        await asyncio.sleep(0.1)
        assert len(asked) == before < 100
        asked.extend([True] * 2000)  # or the test would not end

    asyncio.run(play())


def test_an_environment_that_catches_its_cancellation_is_closed_all_the_same() -> None:
    closed = []

    class Stubborn(Agent):
        async def step(self, action: str) -> Step:
            with contextlib.suppress(BaseException):
                await asyncio.sleep(600)
            return Step("go on")

        def close(self) -> None:
            closed.append(True)

    engine = engine_of(RecordingLLM({}), keep_kv=False)
    engine.executor = EpisodeExecutor(Stubborn)

    async def play() -> None:
        engine._loop = asyncio.get_running_loop()
        asked = {"prompt": "p", "label": "", "images": None, "max_length": 64}
        asked |= {"sampling_params": SamplingParams(), "hf_tokenizer": build_tokenizer()}
        with pytest.raises(LostSampleError):
            await engine._play(Sample(3, SampleLimits(60.0, 0.1)), asked)
        while not closed:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(play(), 30))
