"""What a verification returns: a verdict and the reason for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

REASONS: dict[str, str] = {
    "correct": "the answer is the gold",
    "wrong": "an answer stands there and it is not the gold",
    "no_answer": "no box, or only empty, echoed or placeholder boxes",
    "truncated": "the response stops inside its thinking or inside its box",
    "ambiguous": "several answers are listed and the gold is not that list",
    "unparsable": "the answer is not mathematics that can be read, or is beyond the size limits",
    "timeout": "the comparison was killed at its time or memory limit",
    "empty_gold": "the gold is empty, so nothing can be right",
    "overloaded": "no worker became free within the queue limit; says nothing about the answer",
    "unavailable": "the worker processes could not be reached; says nothing about the answer",
}
#: The reasons that say nothing about the answer: a reward of them would be made up.
UNJUDGED = ("overloaded", "unavailable")

_noted: ContextVar[list[str] | None] = ContextVar("noted", default=None)


@dataclass(frozen=True)
class Verdict:
    """The outcome of one verification.

    Attributes:
        correct: whether the response is right; only ever True with reason ``"correct"``.
        extracted: the answer that was judged, as it stands in the response; None without one.
        reason: one of :data:`REASONS`.
    """

    correct: bool
    extracted: str | None
    reason: str

    @property
    def judged(self) -> bool:
        """False where the verifier was busy or gone, so that nothing is known of the answer."""
        return self.reason not in UNJUDGED

    def __post_init__(self) -> None:
        assert self.reason in REASONS, self.reason
        assert self.correct == (self.reason == "correct")


def note_unjudged(reason: str) -> None:
    """Say that a verification could not be made: the sample whose score is being worked out is
    then not trained on, whatever the score returns or raises.

    Args:
        reason: one of :data:`UNJUDGED`.
    """
    assert reason in UNJUDGED, reason
    if (noted := _noted.get()) is not None:
        noted.append(reason)


@contextlib.contextmanager
def noting_unjudged() -> Iterator[list[str]]:
    """The reasons, out of :data:`UNJUDGED`, of the verifications that fail in the body.

    A score may call :func:`verify` and keep nothing but ``correct``; what it returns is then known
    to be worth nothing all the same. Threads that the body starts are not heard.
    """
    noted: list[str] = []
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)
