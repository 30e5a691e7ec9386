"""Answers in words: choices, names, times, and the units after an expression."""

from __future__ import annotations

import re

from vespo_openrlhf.reward.reading.units import SHORTHAND, read_unit

_CHOICE = re.compile(r"(?:\\text ?\{ ?)?\(? ?([A-Za-z]) ?\)?[.:]? ?\}?\.?")
_CHOICE_WITH_TEXT = re.compile(
    r"(?:\\text ?\{ ?)?(?:\(([A-J])\)|([A-J])(?:[).:]| ?(?=\()))(?: ?\})?[.:]? ?(?P<rest>\S.*)"
)
_OTHER_CHOICE = re.compile(r"\([A-J]\)|(?<![A-Za-z])[A-J][).:]|(?<![A-Za-z\\])[B-HJ](?![A-Za-z])")
_WORDS = re.compile(r"[^\W\d_](?:[^\W\d_]|[' .,\-])*")
_FUNCTION_WORDS = frozenset(
    "sin cos tan cot sec csc log ln exp sqrt infty infinity alpha beta".split()
)
_TAIL = re.compile(
    r"(?P<head>.*[^\s\\]) ?(?P<unit>\\text ?\{[^{}]{1,60}\}(?: ?\^ ?\{? ?-?\d ?\}?)?|°|%"
    r"|(?<=[ })])(?:cm|mm|km|kg|mph|ft|inches|inch|feet|meters|units?|degrees?|dollars|cents|hours"
    r"|minutes|seconds|miles|square units|cubic units)(?: ?\^ ?\{? ?\d ?\}?)?)"
)
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_TIME = re.compile(r"0?(\d{1,2}:[0-5]\d(?::[0-5]\d)?)(?: ?(?:\\text ?\{)? ?([ap])\.? ?m\.? ?\}?)?")
_SAME_WORDS = {
    "doesnotexist": "dne",
    "nosolutions": "nosolution",
    "norealsolutions": "norealsolution",
}


def text_key(text: str) -> str | None:
    r"""What an answer in words says, or None if it is mathematics: ``\text{East}`` -> "east"."""
    words = re.sub(r"\\text ?\{([^{}]*)\}", r" \1 ", text)
    wrapped = words != text
    words = words.strip()
    if not _WORDS.fullmatch(words):
        return None
    tokens = re.findall(r"(?:[^\W\d_]|')+", words.lower())
    short = words.isascii() and len(max(tokens, key=len)) < 4
    if not wrapped and (short or tokens[0] in _FUNCTION_WORDS):
        return None
    if len(tokens) > 1 and tokens[0] in ("a", "an", "the") and len(tokens[1]) > 1:
        tokens = tokens[1:]
    key = "".join(tokens).replace("'", "")
    return _SAME_WORDS.get(key, key)


def choice(text: str) -> str | None:
    """The letter of a multiple-choice answer: A, (A), A., A) and the like."""
    match = _CHOICE.fullmatch(text.strip())
    return match.group(1).upper() if match else None


def _letters(text: str) -> str | None:
    """A short word that would be a product of variables by itself, like "yes"."""
    return text.lower() if text.isalpha() else None


def _one_choice(answer: str) -> re.Match[str] | None:
    """A letter and the text of its choice, where no other letter stands."""
    match = _CHOICE_WITH_TEXT.fullmatch(answer)
    return match if match and not _OTHER_CHOICE.search(match["rest"]) else None


def same_choice(gold: str, answer: str) -> bool | None:
    """Whether an answer names the gold's letter; None if it names no letter."""
    letter = choice(answer)
    if letter is None and (match := _one_choice(answer)):
        letter = match[1] or match[2]
    return None if letter is None else choice(gold) == letter.upper()


def split_unit(text: str) -> tuple[str, str]:
    """An expression and the unit, degree or percent sign after it, if one stands there."""
    match = _TAIL.fullmatch(text)
    unit = match["unit"] if match else ""
    known = unit in ("°", "%") or read_unit(unit) is not None
    in_function = unit == "°" and _TRIGONOMETRY.search(text)
    if match is None or not known or in_function or SHORTHAND.fullmatch(unit):
        return text, ""
    return match["head"].strip(), unit


def without_label(answer: str) -> str | None:
    """What follows the bracketed letter of ``(C) 5``; None without one, or with several."""
    match = _one_choice(answer)
    return match["rest"].strip() if match and match[1] else None


def same_words(gold: str, answer: str) -> bool | None:
    """Whether two answers in words agree; None if neither is in words."""
    if choice(gold) is not None:
        decided = same_choice(gold, answer)
        if decided is not None:
            return decided
    times = _TIME.fullmatch(gold.lower()), _TIME.fullmatch(answer.lower())
    if times[0] and times[1]:
        return times[0].groups() == times[1].groups()
    gold_text, answer_text = text_key(gold), text_key(answer)
    if gold_text is None and answer_text is None:
        return None
    return (gold_text or _letters(gold)) == (answer_text or _letters(answer))
