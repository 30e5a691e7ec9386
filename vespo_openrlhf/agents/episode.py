"""One episode, from its first observation to what is trained: tokens in, tokens out.

What the policy samples is kept as it was sampled. Only what the environment says is tokenised, so
that nothing is tokenised twice at the border of two turns.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, TypeAlias

from vespo_openrlhf.agents.agent import Agent, Step
from vespo_openrlhf.agents.calling import ask
from vespo_openrlhf.agents.conversation import Conversation

logger = logging.getLogger(__name__)

#: Seconds that `close` may take, then the episode goes on without it.
CLOSE_SECONDS = 30.0


class Sampled(NamedTuple):
    """What the policy has sampled in one turn.

    Attributes:
        tokens: their ids.
        log_probs: of each, in nats; None where the engine was not asked for them.
        finish_reason: "stop" or "length", as the engine says.
    """

    tokens: list[int]
    log_probs: list[float] | None
    finish_reason: str


#: (all tokens so far, tokens to sample at most) -> what was sampled.
Generate: TypeAlias = Callable[[list[int], int], Awaitable[Sampled]]


@dataclass(frozen=True)
class Turn:
    """One turn of an episode.

    Attributes:
        start, end: its sampled tokens are `Episode.tokens[start:end]`.
        action: their text, special tokens left out.
        observation: the text that the policy read after it; "" at the end.
        reward: of this turn.
        generate_seconds, environment_seconds: wall clock; `reset` is of the first turn.
    """

    start: int
    end: int
    action: str
    observation: str
    reward: float
    generate_seconds: float
    environment_seconds: float


@dataclass(frozen=True)
class Episode:
    """An episode that has ended.

    Attributes:
        tokens: first observation, then actions and observations in turn.
        log_probs: of each token, in nats; 0 for those that were not sampled. None without any.
        turns: at least one.
        reward: sum over the turns.
        score: the last step's, or the reward.
        truncated: it ended for want of tokens or turns, or its last turn was cut off ("length").
        logs: sums by name, and `turns`.
        text: all of it, as the policy saw it, special tokens kept.
    """

    tokens: list[int]
    log_probs: list[float] | None
    turns: tuple[Turn, ...]
    reward: float
    score: float
    truncated: bool
    logs: dict[str, float]
    text: str


async def run_episode(
    agent: Agent,
    prompt: str,
    label: str,
    generate: Generate,
    tokenizer: Any,
    max_length: int,
) -> Episode:
    """Play an episode to its end, and close the agent however that comes.

    Where it is cancelled, a plain method that hangs is left behind in its thread.

    Args:
        agent: a new one.
        prompt, label: of the data set.
        generate: samples a turn; see `Generate`.
        tokenizer: of transformers.
        max_length: tokens of the whole episode, at most.

    Raises:
        ValueError: the first observation leaves no room to sample, the agent's limits are none, a
            number of its steps is not finite, or the chat template cannot render its messages.
        TypeError: the agent answers with something else than a `Step`, or a `Step` holds
            something else than its fields are for.
    """
    try:
        check_limits(agent)
        return await _play(agent, prompt, label, generate, tokenizer, max_length)
    finally:
        try:
            await asyncio.wait_for(ask(agent.close), CLOSE_SECONDS)
        except Exception:  # what it says of the episode stands, and so does why it failed
            logger.exception("%s.close failed, or took too long", type(agent).__name__)


def check_limits(agent: Agent | type[Agent]) -> None:
    """See that an agent's limits are some.

    Raises:
        ValueError: they are not.
    """
    name = agent.__name__ if isinstance(agent, type) else type(agent).__name__
    turns, tokens = agent.max_turns, agent.max_turn_tokens
    if not isinstance(turns, int) or turns < 1:
        raise ValueError(f"{name}.max_turns: expected a whole number from 1 on, not {turns!r}")
    if tokens is not None and (not isinstance(tokens, int) or tokens < 1):
        raise ValueError(
            f"{name}.max_turn_tokens: expected None or a whole number from 1 on, not {tokens!r}"
        )


async def _play(
    agent: Agent, prompt: str, label: str, generate: Generate, tokenizer: Any, max_length: int
) -> Episode:
    conversation = Conversation(tokenizer)
    began = time.monotonic()
    first = await ask(agent.reset, prompt, label)
    waited = time.monotonic() - began
    tokens = conversation.begin(first)
    if len(tokens) >= max_length:
        raise ValueError(
            f"the first observation has {len(tokens)} tokens, which leaves none of {max_length} to "
            "sample: make it shorter, or --data.max_len larger"
        )
    log_probs: list[float] | None = [0.0] * len(tokens)
    turns: list[Turn] = []
    logs: dict[str, float] = {}
    reward = 0.0
    while True:
        start, room = len(tokens), max_length - len(tokens)
        began = time.monotonic()
        sampled = await generate([*tokens], min(agent.max_turn_tokens or room, room))
        generated = time.monotonic() - began
        assert len(sampled.tokens) <= room
        tokens += sampled.tokens
        log_probs = _joined(log_probs, sampled.log_probs, len(sampled.tokens))
        action = conversation.decode(sampled.tokens, skip_special=True)

        began = time.monotonic()
        step = _checked(agent, await ask(agent.step, action))
        waited += time.monotonic() - began
        reward += step.reward
        for name, value in step.logs.items():
            logs[name] = logs.get(name, 0.0) + value

        ids: list[int] = []
        if not step.done and len(turns) + 1 < agent.max_turns:
            ids = conversation.follow(step.observation, sampled.tokens)
        fits = len(tokens) + len(ids) < max_length
        ended = step.done or len(turns) + 1 == agent.max_turns or not fits
        if ended:
            ids = []
        seen = conversation.decode(ids)
        turns.append(Turn(start, len(tokens), action, seen, step.reward, generated, waited))
        waited = 0.0
        if ended:
            return Episode(
                tokens=tokens,
                log_probs=log_probs,
                turns=tuple(turns),
                reward=reward,
                score=reward if step.score is None else step.score,
                truncated=not step.done or sampled.finish_reason == "length",
                logs={**logs, "turns": float(len(turns))},
                text=conversation.decode(tokens),
            )
        tokens += ids
        log_probs = _joined(log_probs, [0.0] * len(ids), len(ids))


def _joined(so_far: list[float] | None, more: list[float] | None, count: int) -> list[float] | None:
    if so_far is None or more is None:
        return None
    assert len(more) == count, "a log-prob for each token"
    return [*so_far, *more]


def _checked(agent: Agent, step: Any) -> Step:
    """The step of an agent, its numbers as floats."""
    name = f"{type(agent).__name__}.step"
    if not isinstance(step, Step):
        raise TypeError(
            f"{name} returned {type(step).__name__}: return "
            "vespo_openrlhf.agents.Step(observation, reward, done)"
        )
    score = None if step.score is None else _number(step.score, f"the score of {name}")
    return Step(
        step.observation,
        _number(step.reward, f"the reward of {name}"),
        bool(step.done),
        score,
        {key: _number(value, f"{key!r} in the logs of {name}") for key, value in step.logs.items()},
    )


def _number(value: Any, what: str) -> float:
    if not isinstance(value, Real):
        raise TypeError(f"{what} is {value!r:.100}: give a number, such as float(...) of it")
    if not math.isfinite(value):
        raise ValueError(f"{what} is {value}: give a finite number")
    return float(value)
