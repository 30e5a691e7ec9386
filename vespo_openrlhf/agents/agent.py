"""What an agent is: the environment of one episode, seen turn by turn."""

from __future__ import annotations

import abc
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

#: One chat message: its "role" and its "content".
Message: TypeAlias = Mapping[str, str]
#: What the policy reads next: text that is taken as it is, or messages for its chat template.
Observation: TypeAlias = "str | Sequence[Message]"


@dataclass(frozen=True)
class Step:
    """What the environment answers to one action.

    Attributes:
        observation: what the policy reads next; of a last turn nothing is read.
        reward: of this turn. The episode's is the sum over its turns.
        done: whether the episode ends here.
        score: how well the episode went, for dynamic filtering and metrics; None: the sum of the
            rewards so far.
        logs: numbers for the metrics. Of a name that several turns log, the sum.
    """

    observation: Observation = ""
    reward: float = 0.0
    done: bool = False
    score: float | None = None
    logs: Mapping[str, float] = field(default_factory=dict)


class Agent(abc.ABC):
    """One episode's environment; made anew, without arguments, for every sample.

    Each method may be plain or `async`. A plain one runs in a thread, so that it may wait; what is
    slow belongs there, and not into `__init__`, which holds up the engine.
    """

    #: Turns after which the episode ends, with the reward it has.
    max_turns: int = 8
    #: Tokens that the policy may sample in one turn; None: as many as the episode has left.
    max_turn_tokens: int | None = None

    def reset(self, prompt: str, label: str) -> Observation | Awaitable[Observation]:
        """Begin. What the policy reads first; the data set's prompt, unless overridden.

        Args:
            prompt: of the data set, chat template applied where the run applies one.
            label: its label, as a reward function gets it.
        """
        return prompt

    @abc.abstractmethod
    def step(self, action: str) -> Step | Awaitable[Step]:
        """Answer what the policy has said, special tokens left out."""

    def close(self) -> Awaitable[None] | None:
        """Let go of what the episode holds. Called once, however it ended."""
        return None
