"""Golds as datasets have them, made ready to compare."""

from __future__ import annotations

from collections.abc import Sequence

from vespo_openrlhf.reward.reading.extract import extract


def usable_golds(given: Sequence[str]) -> tuple[str, ...]:
    """The golds that are not empty, out of their boxes."""
    golds = tuple(gold.strip() for gold in given)
    return tuple(unbox(gold) for gold in golds if gold and not is_empty(gold))


def is_empty(gold: str) -> bool:
    """Whether nothing of a gold is left once boxes and delimiters are taken off."""
    return "\\{" not in gold and not gold.replace("\\boxed", "").strip(" {}$\\()[]\t\r\n.,")


def unbox(gold: str) -> str:
    r"""A gold that stands in ``\boxed{}`` is what stands in it."""
    if "\\boxed" in gold or "\\fbox" in gold:
        found = extract(gold)
        if len(found.answers) == 1:
            return found.answers[0]
    return gold
