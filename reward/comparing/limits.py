"""What is not read or evaluated, as it could not end: by length, depth and powers."""

from __future__ import annotations

import re

MAX_CHARS = 20_000
MAX_SCALAR_CHARS = 1_500
_TOO_BIG = re.compile(
    r"\^ ?\{? ?-?\d{6,}|\^ ?\{[^{}]*\^ ?(?:\{[^{}]*\^|\d{3})|\^ ?\{ ?\d+ ?\^ ?\{? ?\d{2}"
    r"|\d{5,} ?\)? ?!|! ?\)? ?!|\\binom ?\{ ?\d{6,}|\\(?:sum|prod).*10 ?\^"
    r"|\\(?:sum|prod|int)[^a-z].*\^ ?\{?[^{}]*\d{5,}"
)


class UnreadableError(ValueError):
    """The answer cannot be read as mathematics."""


def check_size(text: str) -> None:
    """Refuse a scalar whose evaluation could not end, before anything tries.

    Raises:
        UnreadableError: it is too long, too deep, or a tower of powers or factorials.
    """
    if len(text) > MAX_SCALAR_CHARS:
        raise UnreadableError("longer than what is compared as mathematics")
    if _TOO_BIG.search(text):
        raise UnreadableError("powers or factorials beyond what is evaluated")
    if depth(text) > 25:
        raise UnreadableError("nested too deep")


def depth(text: str) -> int:
    """How deep brackets of any kind are nested."""
    level = deepest = 0
    for char in text:
        if char in "{([":
            level += 1
            deepest = max(deepest, level)
        elif char in "})]":
            level -= 1
    return deepest
