"""Labels: a plain answer, or a JSON object that says more about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TYPES = ("math", "choice", "text")


@dataclass(frozen=True)
class Label:
    """A label as read.

    Attributes:
        answer: the gold.
        alternatives: other answers that are as right.
        source: the dataset it came from; picks its own scoring where one is registered.
        type: how to compare: "math", "choice" (the letter alone) or "text" (the words alone).
    """

    answer: str
    alternatives: tuple[str, ...] = ()
    source: str = ""
    type: str = "math"

    @property
    def golds(self) -> tuple[str, ...]:
        """The answer and its alternatives."""
        return (self.answer, *self.alternatives)


def parse_label(label: object) -> Label:
    """Read a label.

    Raises:
        ValueError: it is a JSON object with an ``answer``, and that object is malformed.
    """
    if isinstance(label, Mapping):
        return _from_object(label)
    if label is None or (isinstance(label, float) and label != label):
        return Label("")
    if not isinstance(label, str):
        return Label(str(label))
    text = label.strip()
    if text.startswith("{") and text.endswith("}") and '"answer"' in text:
        try:
            loaded = json.loads(text)
        except (ValueError, RecursionError):
            return Label(label)
        if isinstance(loaded, dict):
            return _from_object(loaded)
    return Label(label)


def _from_object(loaded: Mapping[str, Any]) -> Label:
    unknown = set(loaded) - {"answer", "alternatives", "source", "type"}
    if "answer" not in loaded or unknown:
        raise ValueError(
            "a label object has 'answer' and may have 'alternatives', 'source' and 'type'; "
            + (f"unknown: {sorted(unknown)}" if unknown else "'answer' is missing")
        )
    alternatives = loaded.get("alternatives") or ()
    if isinstance(alternatives, str):
        alternatives = (alternatives,)
    kind = loaded.get("type") or "math"
    if kind not in TYPES:
        raise ValueError(f"label type {kind!r} is none of {', '.join(TYPES)}")
    answer = loaded["answer"]
    return Label(
        "" if answer is None else str(answer),
        tuple(str(a) for a in alternatives),
        str(loaded.get("source") or ""),
        kind,
    )
