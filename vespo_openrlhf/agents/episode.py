"""One episode, from its first observation to what is trained: tokens in, tokens out.

What the policy samples is kept as it was sampled. Only what the environment says is tokenised, so
that nothing is tokenised twice at the border of two turns.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from vespo_openrlhf.agents.agent import Agent


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
        generate_seconds, environment_seconds: wall clock.
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
        turns: at least one, unless the first observation left no room.
        reward: sum over the turns.
        score: the last step's, or the reward.
        truncated: it ended for want of tokens or turns, and not by the environment's word.
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

    Args:
        agent: a new one.
        prompt, label: of the data set.
        generate: samples a turn; see `Generate`.
        tokenizer: of transformers.
        max_length: tokens of the whole episode, at most.

    Raises:
        ValueError: the first observation leaves no room to sample.
        TypeError: the agent answers with something else than a `Step`.
    """
    raise NotImplementedError
