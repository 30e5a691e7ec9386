"""Reward shaping: what is added to correctness for training, each term off by default.

The reward is correctness, then the terms in this order: soft overlong, truncation, format,
repetition, language; their sum is clipped once, at the end, to ``[clip_low, clip_high]``.
Each term is logged by itself, and correctness stays apart from all of them.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.reward.reading.formats import final_text
from vespo_openrlhf.reward.reading.query import ended

_SCRIPTS = {
    "en": ("LATIN",), "zh": ("CJK",), "ja": ("HIRAGANA", "KATAKANA", "CJK"), "ko": ("HANGUL",),
    "ru": ("CYRILLIC",), "ar": ("ARABIC",), "el": ("GREEK",), "he": ("HEBREW",),
    "hi": ("DEVANAGARI",), "th": ("THAI",),
}  # fmt: skip
_DELIMITER = re.compile(r"\$\$|\$|\\[()\[\]]|```|\n|\\boxed\{[^{}]*\}|\\[a-zA-Z]+")
_CLOSING = {"$$": "$$", "$": "$", "\\(": "\\)", "\\[": "\\]", "```": "```"}


def overlong(tokens: int, longest: int, buffer: int, penalty: float) -> float:
    """DAPO's soft overlong punishment (arXiv 2503.14476, eq. 13), in tokens.

    0 up to ``longest - buffer``, then linearly down to ``-penalty`` at ``longest`` and beyond.
    """
    over = min(max(tokens - (longest - buffer), 0), buffer)
    return -penalty * over / buffer


def well_formed(response: str) -> bool:
    """One ``<think>`` block, nothing before it, and an answer after it."""
    head, opened, rest = response.partition("<think>")
    thinking, closed, answer = rest.partition("</think>")
    if head.strip() or not opened or not closed or not answer:
        return False
    tags = ("<think>", "</think>")
    if any(tag in part for tag in tags for part in (thinking, answer)):
        return False
    return bool((final_text(response) or "").strip())


def repeated_share(text: str, n: int) -> float:
    """The share of a text's n-grams of words that have come before; 0 below n words."""
    words = text.split()
    total = len(words) - n + 1
    if total <= 0:
        return 0.0
    return 1.0 - len({tuple(words[i : i + n]) for i in range(total)}) / total


def foreign_share(text: str, language: str) -> float:
    """The share of letters outside the language's script, mathematics and code left out."""
    letters = [c for c in _prose(text) if c.isalpha()]
    if not letters:
        return 0.0
    scripts = _SCRIPTS[language]
    foreign = sum(not unicodedata.name(c, "").startswith(scripts) for c in letters)
    return foreign / len(letters)


def _prose(text: str) -> str:
    """The text without mathematics and code, in one pass; what is never closed is prose."""
    pieces: list[str] = []
    position, closing = 0, ""
    for match in _DELIMITER.finditer(text):
        token = match.group()
        if closing and token != closing and (closing, token) != ("$", "\n"):
            continue
        if not closing or token == "\n":  # a dollar sign that its line does not close is money
            pieces.append(text[position : match.start()])
        position, closing = match.end(), "" if closing else _CLOSING.get(token, "")
    pieces.append(text[position:])
    return " ".join(pieces)


@lru_cache(maxsize=2)
def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(name)


_SWITCHES = {
    "overlong": "overlong_max", "truncation": "truncation_penalty", "format": "format_reward",
    "repetition": "repetition_penalty", "language": "language_penalty",
}  # fmt: skip


def terms_on(options: RewardOptions) -> list[str]:
    """The names of the terms that are on, in the order they are added."""
    return [name for name, switch in _SWITCHES.items() if getattr(options, switch)]


def shaping_terms(response: str, options: RewardOptions) -> dict[str, float]:
    """The terms that are on, by name, in the order they are added."""
    return {name: _term(name, response, options) for name in terms_on(options)}


def _term(name: str, response: str, options: RewardOptions) -> float:
    if name == "overlong":
        encoded = _tokenizer(options.tokenizer)(response, add_special_tokens=False)
        return overlong(
            len(encoded["input_ids"]),
            options.overlong_max,
            options.overlong_buffer,
            options.overlong_penalty,
        )
    if name == "truncation":
        return 0.0 if ended(response) else -options.truncation_penalty
    if name == "format":
        return options.format_reward * well_formed(response)
    if name == "repetition":
        return -options.repetition_penalty * repeated_share(response, options.repetition_ngram)
    assert name == "language"
    answer = final_text(response) or ""
    return -options.language_penalty * foreign_share(answer, options.language)


def shape(correctness: float, terms: dict[str, float], options: RewardOptions) -> float:
    """Correctness and the terms, clipped; correctness itself where no term is on."""
    if not terms:
        return correctness
    return min(max(correctness + sum(terms.values()), options.clip_low), options.clip_high)
