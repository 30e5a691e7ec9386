"""The engine actor's parts that need no engine; the whole of it runs in the end-to-end tests."""

import asyncio
import functools
import math
import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch
from openrlhf.utils.agent import SingleTurnAgentExecutor
from vllm import SamplingParams
from vllm.logprobs import Logprob

from vespo_openrlhf.bridge.engine import (
    VersionedRollout,
    _Remembering,
    _reward,
    _SampleEngine,
    join_spans,
    mark_missing_log_probs,
)
from vespo_openrlhf.bridge.events import Generated, RolloutSettings, Scored
from vespo_openrlhf.bridge.loss import PolicyLossAdapter
from vespo_openrlhf.losses import get_policy_loss
from vespo_openrlhf.scheduling.lag import TokenVersions


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        (((0, 0),), ((0, 5),), ((0, 5),)),  # before the first turn there are no tokens
        (((0, 3),), ((0, 5),), ((0, 8),)),
        (((0, 3),), ((2, 5),), ((0, 3), (2, 5))),
        (((0, 3), (2, 1)), ((2, 4), (4, 6)), ((0, 3), (2, 5), (4, 6))),
        (((0, 3),), ((2, 0),), ((0, 3), (2, 0))),  # a turn that ended at once
    ],
)
def test_spans_of_turns_are_those_of_one_response(first, second, joined) -> None:
    assert join_spans(first, second) == joined


def completion(tokens: list[int], log_probs: list[dict[int, float]] | None) -> SimpleNamespace:
    """What is read of vLLM's CompletionOutput, with its own Logprob."""
    if log_probs is None:
        return SimpleNamespace(token_ids=tokens, logprobs=None)
    return SimpleNamespace(
        token_ids=tokens,
        logprobs=[{t: Logprob(logprob=p) for t, p in each.items()} for each in log_probs],
    )


def test_a_missing_log_prob_becomes_nan_and_its_sample_is_dropped_and_counted() -> None:
    whole = completion([5, 6], [{5: -0.1}, {6: -0.2, 9: -0.05}])
    lacking = completion([5, 6], [{5: -0.1}, {9: -0.05}])
    rows = []
    for output in (whole, lacking):
        mark_missing_log_probs(output)
        pairs = zip(output.token_ids, output.logprobs, strict=True)
        rows.append([at[token].logprob for token, at in pairs])
    assert rows[0] == [-0.1, -0.2]
    assert rows[1][0] == -0.1
    assert math.isnan(rows[1][1])

    rollout = torch.tensor(rows)
    log_probs = torch.full((2, 2), -0.3, requires_grad=True)
    adapter = PolicyLossAdapter(get_policy_loss("vespo"))
    loss, *_ = adapter(
        log_probs, rollout, torch.ones(2, 2), torch.ones(2, 2), rollout_log_probs=rollout
    )
    (gradient,) = torch.autograd.grad(loss, log_probs)
    assert gradient[0].abs().min() > 0
    assert (gradient[1] == 0).all()
    metrics = adapter.drain()
    assert metrics["vespo/num_dropped"] == 1
    assert metrics["vespo/num_positive"] == 1


def test_a_run_without_log_probs_has_none_to_mark() -> None:
    output = completion([5], None)
    mark_missing_log_probs(output)
    assert output.logprobs is None


@pytest.mark.parametrize(
    ("rewards", "executor", "expected"),
    [
        (torch.tensor([0.5]), SimpleNamespace(reward_endpoints=["r.py"]), 0.5),
        (None, SimpleNamespace(reward_endpoints=["r.py"]), None),  # it should have scored here
        (None, SimpleNamespace(reward_endpoints=None), 0.0),  # a reward model will
        (None, SimpleNamespace(), None),  # an agent brings its own
    ],
)
def test_the_verdict_that_is_reported(rewards, executor, expected) -> None:
    assert _reward(SimpleNamespace(rewards=rewards), executor) == expected


def bare_engine(*, errored: bool, configured: bool) -> VersionedRollout:
    """Without vLLM, which would be a minute."""
    engine = object.__new__(VersionedRollout)
    engine.llm = SimpleNamespace(errored=errored)
    engine._settings = object() if configured else None
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


def sample_engine(seconds: float) -> _SampleEngine:
    """A sample's view of an engine that takes so long for every turn."""

    async def generate(*_) -> SimpleNamespace:
        await asyncio.sleep(seconds)
        return SimpleNamespace(token_versions=((0, 3),), request_id="0")

    return _SampleEngine(SimpleNamespace(generate=generate, _versions=TokenVersions(0)))


def test_an_environment_that_hangs_costs_its_sample_and_no_more() -> None:
    request = sample_engine(0.0)
    reached = []

    async def episode() -> None:
        await request.generate([1], None)
        try:
            await asyncio.sleep(600)
        finally:
            reached.append("the end")

    with pytest.raises(TimeoutError, match=r"no word from its reward or environment for 0\.1 s"):
        asyncio.run(request.bounded(episode(), 0.1))
    assert reached == ["the end"]
    assert request.spans == ((0, 3),)


def test_an_evaluation_whose_reward_hangs_ends() -> None:
    async def execute(**_) -> None:
        await asyncio.sleep(600)

    engine = bare_engine(errored=False, configured=True)
    engine._versions, engine.executor = TokenVersions(0), SimpleNamespace(execute=execute)
    engine._settings = SimpleNamespace(reward_timeout=0.1)
    work = engine.generate_responses("p", "l", SamplingParams(), 64, None, num_samples=2)
    with pytest.raises(TimeoutError, match=r"no word from its reward"):
        asyncio.run(asyncio.wait_for(work, 30))


def test_an_engine_that_is_given_up_leaves_nothing_behind() -> None:
    """Run in a process of its own, which starts a child and then gives itself up."""
    script = (
        "import subprocess, sys\n"
        "from vespo_openrlhf.bridge.engine import VersionedRollout\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "print(child.pid, flush=True)\n"
        "VersionedRollout.give_up(None)\n"
        "print('still here')\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, timeout=300, check=False
    )
    assert ended.returncode == 1
    child = int(ended.stdout.split()[-1])  # nothing was said after its pid
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == "zombie"


def test_time_on_the_engine_is_not_the_environments() -> None:
    request = sample_engine(0.3)

    async def episode() -> str:
        for _ in range(2):
            await request.generate([1], None)
        return "done"

    assert asyncio.run(request.bounded(episode(), 0.2)) == "done"


def test_an_engine_at_rest_shows_no_progress_to_be_missed() -> None:
    engine = bare_engine(errored=False, configured=True)
    engine.llm.output_processor = SimpleNamespace(request_states={})
    engine._generating, engine._paused = 0, False
    assert engine.progress() is None
    engine._generating = 1
    assert engine.progress() is not None
    engine._paused = True
    assert engine.progress() is None


def settings() -> RolloutSettings:
    return RolloutSettings(None, SamplingParams(), 64, 30.0)


def test_an_engine_that_joins_again_drops_what_it_still_had() -> None:
    engine = bare_engine(errored=False, configured=True)
    engine.executor = None
    aborted = []
    engine._groups = {3: [SimpleNamespace(cancel=lambda: aborted.append(3))]}
    engine.configure(settings())
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
        engine.configure(settings())
        made.append(engine._settings.sampling.detokenize)
    assert made == [False, True]


class ScriptedEngine(VersionedRollout):
    """Each sample tells of its generation and its verdict after a delay of its own, or fails."""

    def __init__(self, delays: list[float], fails: int | None = None) -> None:
        self._groups: dict = {}
        self._settings = settings()
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


def test_a_prompt_is_tokenised_once_for_its_group() -> None:
    asked = []

    class Tokenizer:
        eos_token_id = 3

        def __call__(self, text: str, return_tensors: str | None = None) -> list[str]:
            asked.append(text)
            return [text, str(return_tensors)]

    tokenizer = _Remembering(Tokenizer())
    assert [tokenizer(text="a", return_tensors="pt") for _ in range(3)] == [["a", "pt"]] * 3
    assert asked == ["a"]
    assert tokenizer(text="a") == ["a", "None"]  # another question
    assert tokenizer(text="b") == ["b", "None"]
    assert tokenizer.eos_token_id == 3


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
        token = SimpleNamespace(token_ids=[7], logprobs=None)
        yield SimpleNamespace(request_id=request_id, outputs=[token])


def engine_of(llm: RecordingLLM, *, keep_kv: bool) -> VersionedRollout:
    engine = object.__new__(VersionedRollout)
    engine.llm, engine._versions = llm, TokenVersions(3)
    engine._generating, engine._paused, engine._mm_pad_token_ids = 0, False, None
    engine._recomputed, engine._recomputing = [], None
    engine._settings = RolloutSettings(None, SamplingParams(), 64, 30.0, keep_kv)
    return engine


def test_a_kv_cache_that_is_recomputed_is_dropped_and_timed() -> None:
    llm = RecordingLLM({"a": 5, "b": 2, "new": 0})
    engine = engine_of(llm, keep_kv=False)

    async def updates() -> list[list[tuple[int, float]]]:
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
        await engine.generate([1, 2], SamplingParams())
        await engine.begin_update()
        await engine.end_update(4)
        await engine.generate([1, 2], SamplingParams())

    asyncio.run(update())
    assert llm.asked[1] == {"mode": "keep", "clear_cache": False}
    assert [llm.asked[i]["cache_salt"] for i in (0, -1)] == ["3", "4"]
    assert engine._recomputing is None
