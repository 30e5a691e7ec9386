"""An episode from its first observation to what is trained."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from transformers import PreTrainedTokenizerFast

from vespo_openrlhf.agents import Agent, Step, episode
from vespo_openrlhf.agents.episode import Episode, run_episode

from .conftest import Script, user

END = "<|im_end|>"


class Steps(Agent):
    """An environment that answers what stands in its list."""

    def __init__(self, *steps: Any, first: Any = "ask:") -> None:
        self.steps, self.first = list(steps), first
        self.heard: list[str] = []
        self.closed = 0

    def reset(self, prompt: str, label: str) -> Any:
        self.heard.append(f"{prompt}/{label}")
        return self.first

    def step(self, action: str) -> Any:
        self.heard.append(action)
        return self.steps.pop(0)

    def close(self) -> None:
        self.closed += 1


def play(agent: Agent, policy: Script, max_length: int = 500) -> Episode:
    return asyncio.run(run_episode(agent, "p", "l", policy, policy.tokenizer, max_length))


def test_an_episode_of_two_turns(chatml: PreTrainedTokenizerFast) -> None:
    policy = Script(chatml, "4" + END, "4" + END)
    agent = Steps(Step(" no ", 0.25, logs={"calls": 1}), Step("x", 1, True, 7, {"calls": 2}))
    played = play(agent, policy)
    assert agent.heard == ["p/l", "4", "4"]
    assert played.text == f"ask:4{END} no 4{END}"
    assert (
        played.tokens
        == chatml("ask:")["input_ids"]
        + policy.said[0]
        + chatml(" no ")["input_ids"]
        + policy.said[1]
    )
    assert played.log_probs == [0, 0, 0, 0, -1, -2, 0, 0, 0, 0, -1, -2]
    assert [(t.start, t.end, t.action, t.observation, t.reward) for t in played.turns] == [
        (4, 6, "4", " no ", 0.25),
        (10, 12, "4", "", 1.0),
    ]
    assert (played.reward, played.score, played.truncated) == (1.25, 7.0, False)
    assert played.logs == {"calls": 3.0, "turns": 2.0}
    assert agent.closed == 1
    # What a turn was asked with is what the turn before left, and is the policy's to keep.
    assert [room for _, room in policy.asked] == [496, 490]
    assert [tokens for tokens, _ in policy.asked] == [played.tokens[:4], played.tokens[:10]]


def test_what_was_sampled_is_not_tokenised_again(chatml: PreTrainedTokenizerFast) -> None:
    """ "4" and "2" are two tokens here, and "42" is one."""
    apart = chatml("4")["input_ids"] + chatml("2")["input_ids"]
    assert chatml.decode(apart) == "42"
    assert chatml("42")["input_ids"] != apart
    policy = Script(chatml, ([*apart], "length"), ([*apart], "stop"))
    played = play(Steps(Step(user("2")), Step(done=True), first=user("4")), policy)
    for turn in played.turns:
        assert played.tokens[turn.start : turn.end] == apart
        assert turn.action == "42"


def test_a_borders_text_does_not_join_what_was_sampled(chatml: PreTrainedTokenizerFast) -> None:
    policy = Script(chatml, "4", "4")
    played = play(Steps(Step("2"), Step(done=True)), policy)
    assert played.tokens[4:] == [*policy.said[0], *chatml("2")["input_ids"], *policy.said[1]]


TOKENS = st.lists(st.integers(1, 100), max_size=9)
TEXTS = st.text("ab42 \n", max_size=9)


@settings(deadline=None, max_examples=60)
@given(
    said=st.lists(st.tuples(TOKENS, st.sampled_from(["stop", "length"])), min_size=1, max_size=5),
    seen=st.lists(st.one_of(TEXTS, TEXTS.map(user)), min_size=5, max_size=5),
    first=st.one_of(TEXTS.filter(bool), TEXTS.map(user)),
    max_length=st.integers(60, 250),
)
def test_what_is_trained_is_what_was_sampled(
    chatml: PreTrainedTokenizerFast, said: Any, seen: Any, first: Any, max_length: int
) -> None:
    """Whatever is said and seen: each turn was asked with all that stands before it, what it
    sampled stands there with its log-probs, and all else has none."""
    policy = Script(chatml, *said)
    steps = [Step(text, done=turn + 1 == len(said)) for turn, text in enumerate(seen[: len(said)])]
    played = play(Steps(*steps, first=first), policy, max_length)
    assert len(played.tokens) == len(played.log_probs) <= max_length
    sampled = [False] * len(played.tokens)
    for turn, (asked, room), tokens in zip(played.turns, policy.asked, policy.said, strict=True):
        assert asked == played.tokens[: turn.start]
        assert room == max_length - turn.start
        assert played.tokens[turn.start : turn.end] == tokens
        for at in range(turn.start, turn.end):
            sampled[at] = True
            assert played.log_probs[at] == -(at - turn.start + 1)
    assert not any(
        p for p, is_sampled in zip(played.log_probs, sampled, strict=True) if not is_sampled
    )


def test_methods_may_be_async(chatml: PreTrainedTokenizerFast) -> None:
    threads, main = [], threading.get_ident()

    class Async(Agent):
        async def reset(self, prompt: str, label: str) -> str:
            threads.append(threading.get_ident())
            return prompt

        async def step(self, action: str) -> Step:
            await asyncio.sleep(0)
            threads.append(threading.get_ident())
            return Step(done=True)

        async def close(self) -> None:
            threads.append(threading.get_ident())

    assert play(Async(), Script(chatml, "a")).text == "pa"
    assert threads == [main] * 3


def test_plain_methods_may_wait_as_many_as_there_are(chatml: PreTrainedTokenizerFast) -> None:
    """All wait for the last: a pool of threads smaller than they would never end."""
    count = 100
    together = threading.Barrier(count)

    class Waits(Agent):
        def step(self, action: str) -> Step:
            together.wait()
            return Step(done=True)

    async def all_of_them() -> list[Episode]:
        each = (run_episode(Waits(), "p", "", Script(chatml, "a"), chatml, 9) for _ in range(count))
        return await asyncio.gather(*each)

    assert len(asyncio.run(all_of_them())) == count


def test_the_budget_of_a_turn(chatml: PreTrainedTokenizerFast) -> None:
    policy = Script(chatml, "abcdefgh", "abcdefgh")
    agent = Steps(Step("++"), Step("++"))
    agent.max_turn_tokens = 5
    played = play(agent, policy, max_length=13)
    assert [room for _, room in policy.asked] == [5, 2]
    assert played.text == "ask:abcde++ab"
    assert played.truncated
    assert [turn.observation for turn in played.turns] == ["++", ""]


@pytest.mark.parametrize(("room", "turns"), [(0, 1), (1, 2)])
def test_an_observation_that_leaves_no_room_is_left_out(
    chatml: PreTrainedTokenizerFast, room: int, turns: int
) -> None:
    policy = Script(chatml, "ab", "cd")
    agent = Steps(Step("seen", 0.5), Step("", 0.25))
    played = play(agent, policy, max_length=len("ask:abseen") + room)
    assert played.text == {1: "ask:ab", 2: "ask:abseenc"}[turns]
    assert len(played.turns) == turns
    assert played.truncated
    assert played.reward == {1: 0.5, 2: 0.75}[turns]
    assert agent.closed == 1


def test_an_agents_own_turns_end_it_with_what_it_has(chatml: PreTrainedTokenizerFast) -> None:
    agent = Steps(Step("x", 0.5), Step("y", 0.5))
    agent.max_turns = 2
    played = play(agent, Script(chatml, "a", "b"))
    assert (played.text, played.truncated, played.reward) == ("ask:axb", True, 1.0)


@pytest.mark.parametrize(("reason", "truncated"), [("stop", False), ("length", True)])
def test_a_last_turn_that_was_cut_off(
    chatml: PreTrainedTokenizerFast, reason: str, truncated: bool
) -> None:
    played = play(Steps(Step(done=True)), Script(chatml, ([40], reason)))
    assert played.truncated is truncated


def test_no_room_for_the_first_observation(chatml: PreTrainedTokenizerFast) -> None:
    agent = Steps()
    with pytest.raises(ValueError, match=r"4 tokens, which leaves none of 4 .* --data.max_len"):
        play(agent, Script(chatml), max_length=4)
    assert agent.closed == 1


def test_an_engine_that_tells_no_log_probs(chatml: PreTrainedTokenizerFast) -> None:
    policy = Script(chatml, "a", "b")

    async def silent(tokens: list[int], room: int) -> episode.Sampled:
        sampled = await policy(tokens, room)
        return sampled._replace(log_probs=sampled.log_probs if len(policy.asked) > 1 else None)

    agent = Steps(Step("x"), Step(done=True))
    played = asyncio.run(run_episode(agent, "p", "l", silent, chatml, 99))
    assert played.log_probs is None


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "a dict": ({"reward": 1}, TypeError, r"Steps.step returned dict: return .*agents.Step\("),
    "no number": (Step(reward="1"), TypeError, "the reward of Steps.step is '1': give a number"),
    "not finite": (Step(reward=float("nan")), ValueError, "the reward of .* is nan: give a finite"),
    "score": (Step(score=float("inf")), ValueError, "the score of Steps.step is inf"),
    "log": (Step(logs={"a": None}), TypeError, "'a' in the logs of Steps.step is None"),
    "observation": (Step(observation=3), TypeError, "an observation is text, or a list"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_an_agent_does_wrong(chatml: PreTrainedTokenizerFast, name: str) -> None:
    step, kind, message = WRONG[name]
    agent = Steps(step)
    with pytest.raises(kind, match=message):
        play(agent, Script(chatml, "a"))
    assert agent.closed == 1


@pytest.mark.parametrize(("limit", "value"), [("max_turns", 0), ("max_turn_tokens", 0)])
def test_limits_that_are_none(chatml: PreTrainedTokenizerFast, limit: str, value: int) -> None:
    agent = Steps()
    setattr(agent, limit, value)
    with pytest.raises(ValueError, match=f"Steps.{limit}: expected .*whole number from 1 on"):
        play(agent, Script(chatml))


@pytest.mark.parametrize("error", [OSError("gone"), StopIteration(), SystemExit(2)])
@pytest.mark.parametrize("method", ["reset", "step"])
def test_what_an_agent_raises_ends_its_episode_alone(
    chatml: PreTrainedTokenizerFast, method: str, error: BaseException
) -> None:
    """Also what would end the event loop, or cannot be raised in it."""

    def fails(*arguments: Any) -> Any:
        raise error

    agent = Steps()
    setattr(agent, method, fails)
    with pytest.raises((OSError, RuntimeError)):
        play(agent, Script(chatml, "a"))
    assert agent.closed == 1


def hang(agent: Steps, method: str, forever: threading.Event, *, plain: bool) -> None:
    async def waits(*arguments: Any) -> Any:
        await asyncio.Event().wait()

    setattr(agent, method, (lambda *arguments: forever.wait()) if plain else waits)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("method", ["reset", "step"])
def test_a_cancelled_episode_is_closed_and_a_thread_left_behind(
    chatml: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture, method: str, plain: bool
) -> None:
    agent, forever = Steps(), threading.Event()
    hang(agent, method, forever, plain=plain)

    async def cancelled() -> None:
        task = asyncio.create_task(run_episode(agent, "p", "", Script(chatml, "a"), chatml, 99))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if method == "step":  # that of `reset` outlives the loop
            forever.set()
            await asyncio.sleep(0.05)

    asyncio.run(cancelled())
    assert agent.closed == 1
    assert not caplog.records  # what comes too late is nobody's
    forever.set()


@pytest.mark.parametrize("plain", [True, False])
def test_a_close_that_hangs_is_left_behind(
    chatml: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    plain: bool,
) -> None:
    monkeypatch.setattr(episode, "CLOSE_SECONDS", 0.01)
    agent, forever = Steps(Step(reward=1, done=True)), threading.Event()
    hang(agent, "close", forever, plain=plain)
    assert play(agent, Script(chatml, "a")).reward == 1
    assert "Steps.close failed, or took too long" in caplog.text
    forever.set()


def test_a_close_that_fails_hides_nothing(
    chatml: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    def fails() -> None:
        raise OSError("cannot let go")

    agent = Steps("no step")
    agent.close = fails
    with caplog.at_level(logging.ERROR), pytest.raises(TypeError, match="returned str"):
        play(agent, Script(chatml, "a"))
    assert "cannot let go" in caplog.text


@pytest.mark.parametrize("raised", [asyncio.CancelledError, SystemExit])
def test_an_async_agent_ends_no_more_than_its_episode(
    raised: type[BaseException], chatml: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    """`SystemExit` ended the loop, and a cancellation in `close` took what was played with it."""

    async def fails(*_: Any) -> None:
        raise raised

    agent = Steps(Step(done=True))
    agent.close = fails
    with caplog.at_level(logging.ERROR):
        assert len(play(agent, Script(chatml, "a")).turns) == 1
    assert f"an agent raised {raised.__name__}" in caplog.text
    agent = Steps()
    agent.step = fails
    with pytest.raises(RuntimeError, match=f"an agent raised {raised.__name__}"):
        play(agent, Script(chatml, "a"))
    assert agent.closed == 1


def test_times_are_of_their_turn(
    chatml: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(episode, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def takes(seconds: float, function: Callable[..., Any]) -> Callable[..., Any]:
        async def timed(*arguments: Any) -> Any:
            clock[0] += seconds
            answer = function(*arguments)
            return await answer if asyncio.iscoroutine(answer) else answer

        return timed

    agent, policy = Steps(Step("x"), Step(done=True)), Script(chatml, "a", "b")
    agent.reset = takes(100, agent.reset)
    agent.step = takes(10, agent.step)
    timed = takes(1, policy)
    played = asyncio.run(run_episode(agent, "p", "", timed, chatml, 99))
    times = [(turn.generate_seconds, turn.environment_seconds) for turn in played.turns]
    assert times == [(1, 110), (1, 10)]
