"""What a verification returns: a verdict and the reason for it."""

from __future__ import annotations

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

    def __post_init__(self) -> None:
        assert self.reason in REASONS, self.reason
        assert self.correct == (self.reason == "correct")
