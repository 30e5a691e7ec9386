r"""What a parsed answer is made of, and how text is split: at separators outside brackets."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_DEPTH = 30
_MAX_ITEMS = 2_000

LIST_SEPARATOR = (
    r",|;|\\text ?\{,? ?(?:and|or|and/or),? ?\}|(?<![a-zA-Z\\])(?:and|or)(?![a-zA-Z])"
    r"|\\(?:lor|land)(?![a-z])|\\\\"
)
RELATION = r"\\(?:le|ge|ne|approx|in|equiv)(?![a-zA-Z])|<|>|:?="
#: Comparisons turned round.
FLIP = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}
_SCAN: dict[str, re.Pattern[str]] = {
    pattern: re.compile(
        rf"\\[{{}}]|\\[lr]angle|\\begin(?=\{{)|\\end(?=\{{)|[()\[\]{{}}]|(?P<sep>{pattern})"
    )
    for pattern in (LIST_SEPARATOR, RELATION, r"\\cup(?![a-z])", r"\\setminus|\\text\{except\}",
                    r"\\\\", "&", r"[|:]", ",|;")
}  # fmt: skip
_OPEN = frozenset(["(", "[", "{", "\\{", "\\langle", "\\begin"])


@dataclass(frozen=True)
class Expression:
    """A node of the tree that an answer is parsed into.

    Attributes:
        kind: scalar, list, set, tuple, interval, union, except, matrix, named, equation,
            relation or approx.
        text: its normalised text.
        items: what it is made of.
        name: the left side of ``x = 5``, the variable of an inequality.
        detail: the brackets of an interval or the operator of a relation.
        condition: what was said after the whole of its variables: "k \\in \\mathbb{Z}".
    """

    kind: str
    text: str
    items: tuple[Expression, ...] = ()
    name: str = ""
    detail: str = ""
    condition: str = ""


class TooComplexError(ValueError):
    """The answer is beyond the limits up to which it is read."""


def split_top(text: str, separator: str) -> list[tuple[str, str]]:
    """Split at separators outside all brackets: (piece, the separator before it)."""
    pieces: list[tuple[str, str]] = []
    depth = start = 0
    before = ""
    for match in _SCAN[separator].finditer(text):
        token = match.group()
        if match.group("sep") is not None:
            if depth <= 0:
                pieces.append((text[start : match.start()].strip(), before))
                before, start = token, match.end()
        elif token in _OPEN:
            depth += 1
            if depth > MAX_DEPTH:
                raise TooComplexError("nested too deep")
        else:
            depth -= 1
    pieces.append((text[start:].strip(), before))
    if len(pieces) > _MAX_ITEMS:
        raise TooComplexError("too many items")
    return pieces


def enclosed(text: str) -> tuple[str, str, str] | None:
    """(opening, inside, closing) if one pair of brackets, of any kinds, holds the whole."""
    depth = 0
    opening = ""
    for match in re.finditer(r"\\[{}]|\\[lr]angle|[()\[\]{}]", text):
        if match.group() in _OPEN:
            if depth == 0:
                if match.start() > 0:
                    return None
                opening = match.group()
            depth += 1
        else:
            depth -= 1
            if depth == 0:
                if match.end() != len(text):
                    return None
                return opening, text[len(opening) : match.start()].strip(), match.group()
            if depth < 0:
                return None
    return None
