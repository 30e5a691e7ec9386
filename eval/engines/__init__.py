"""What answers the prompts: `offline` (vLLM here), `on_ray` (several of them), `endpoint` (HTTP).

An engine takes all requests at once and yields completions as they finish, in any order, so that
its batch stays full to the end and what has finished is on disk long before the rest. With an agent
a request is an episode of many turns (`episodes`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from vespo_openrlhf.eval.benchmarks.templates import Prompt

#: The `finish_reason` of a request that got no response.
FAILED = "error"


@dataclass(frozen=True)
class Request:
    """One response to be generated.

    Attributes:
        benchmark: name in the records.
        id: the problem's.
        repeat: which of the problem's responses, from 0.
        seed: of this response.
        prompt: what the model is sent.
        temperature: 0 is greedy.
        label: the gold, which an agent is told.
    """

    benchmark: str
    id: str
    repeat: int
    seed: int
    prompt: Prompt
    temperature: float
    label: str = ""


@dataclass(frozen=True)
class Completion:
    """What came back.

    Attributes:
        index: of the request in the sequence given.
        text: the response, special tokens kept where the engine keeps them; of an episode the last
            turn's, without them.
        tokens: its length, of an episode that of all turns; None where a server does not say.
        finish_reason: "stop", "length", `FAILED`, or what the engine says.
        error: why there is no response, with `FAILED`.
        server_fault: whether that is the server's state (it gave up after retries) rather than
            this request, which it refused.
        episode: what the record of an episode holds besides.
    """

    index: int
    text: str
    tokens: int | None
    finish_reason: str
    error: str = ""
    server_fault: bool = False
    episode: Mapping[str, Any] = field(default_factory=dict)


class Engine(Protocol):
    """Answers requests."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Completions as they finish, one for each request, a failed one among them.

        Raises:
            ValueError: a prompt that the model cannot take.
            eval.errors.EvaluationError: the engine gave way.
        """
        ...

    def close(self) -> None:
        """Let go of processes and connections."""
        ...
