"""What a rule has to say about a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing found in a recipe.

    Args:
        level: "error": the run would stop or train something else than was asked for.
            "warning": it would run, but hardly as meant. "note": a check that could not be made.
        text: what was found, with the flag and the numbers.
        change: what to write instead; empty where the text says it, and for a note.
    """

    level: Level
    text: str
    change: str = ""

    def __str__(self) -> str:
        return f"{self.text}: {self.change}" if self.change else self.text


def error(text: str, change: str = "") -> Finding:
    """The run would stop, or train something else than was asked for."""
    return Finding("error", text, change)


def warning(text: str, change: str) -> Finding:
    """The run would start, but hardly as meant."""
    return Finding("warning", text, change)


def note(text: str) -> Finding:
    """A check that could not be made, and why."""
    return Finding("note", text)
