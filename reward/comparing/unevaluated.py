"""Answers that are not worked out: a sum, an integral, a sentence that holds numbers."""

from __future__ import annotations

import re

from vespo_openrlhf.reward.comparing.words import split_unit

_UNEVALUATED = re.compile(
    r"(?<=[\w)}\]!°%. ])[-+]|\\cdot|!|\\pm|\||:|[a-zA-Z]{2,}\("
    r"|\\(?:binom|sum|prod|int|lim|gcd|lcm|max|min|log|ln|exp|sin|cos|tan|cot|sec|csc|arc\w+"
    r"|lfloor|rfloor|lceil|rceil|bmod|pmod|mod|det|text|circ)(?![a-z])"
    r"|\)\s*\(|\d\s*[({]|[)}]\s*\d|[\d}]\s*\\(?:sqrt|frac)|[\d)}]\s*[ei](?![a-zA-Z])"
)
# What a problem asks for: an answer that still has one, and a gold that has none, restates it.
UNFINISHED = re.compile(
    r"\\(?:i*int|oint|sum|prod|lim)(?![a-z])"
    r"|\\frac ?\{ ?(?:d|\\partial)(?![a-z]{2})[^{}]*\} ?\{ ?(?:d|\\partial) ?[a-z]"
)
# Numbers among words, but in 3 feet by 5 feet: as a product they could change places.
SENTENCE = re.compile(
    r"(?!.*(?:\\cdot|\bby ?\}))"
    r"(?:.*\\text ?\{[^{}]*[a-zA-Z]{3}[^{}]*\}.*\d.*\\text ?\{[^{}]*[a-zA-Z]{3}"
    r"|.*\d ?[a-zA-Z]{3,} \d+ ?[a-zA-Z]{3}"
    r"|.*[\w)}] ?\\text ?\{[^{}]*[a-zA-Z][^{}]*\} ?[\w(\\]|.*\d ?[A-Z] ?\d)"  # 5 R 3
)
_SIGNS = re.compile(r"[-+] ?\(? ?[-+]")
_VARIABLE = re.compile(r"(?<!\\text)(?<![a-zA-Z\\])[a-df-hj-zA-Z](?![a-zA-Z])")


def unevaluated(answer: str) -> bool:
    """Whether a scalar still has a sum, product, factorial or function to work out."""
    head = split_unit(answer)[0]
    if _SIGNS.match(head) or _VARIABLE.search(head):
        return True
    return _UNEVALUATED.search(head.lstrip("+- ")) is not None
