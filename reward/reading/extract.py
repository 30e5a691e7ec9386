"""From a response to the answer it commits to: turns, thinking, boxes, listings.

The rules, in order:

1. Special tokens are stripped. What follows the first end of a turn was not said by the
   model in its turn and is cut off.
2. Only what follows the thinking counts; thinking that is open means no answer.
3. The last complete ``\\boxed{}``, ``\\fbox{}`` or ``\\boxed 7`` is the answer. Empty boxes,
   placeholders and boxes copied from the prompt are passed over.
4. Boxes before it that are joined to it by nothing but separators, "and", "or", list
   markers or "x =" are one listing with it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import takewhile

from vespo_openrlhf.reward.reading.formats import final_text
from vespo_openrlhf.reward.reading.normalize import INVISIBLE
from vespo_openrlhf.reward.reading.units import UNITS

MAX_BOXES = 32
MAX_ANSWER_CHARS = 20_000
_ECHO_CONTEXT = 24

_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
_BARE = re.compile(
    r"\s*(-?\\d?frac\s*\{[^{}]{0,60}\}\s*\{[^{}]{0,60}\}|[-+−]?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
    r"|\([A-Za-z]\)|[A-Za-z](?![A-Za-z])|\\[a-zA-Z]+)"
)
_ANSWER_LINE = re.compile(r"answer(?:[ \t]+is)?[ \t*_]*[::][ \t*_]*([^\n]*)", re.IGNORECASE)

# A sign that belongs to the box: x = -\boxed{7}, -(\boxed{7}), **-\boxed{7}**. A dash with a space
# after it may be the mark of a list or of a sentence: it needs the start of mathematics before it.
_BEFORE_BOX = (
    r"\\(?:left|[bB]igg?l?|math(?:bf|rm)|text(?:bf)?|bm|bf|underline|displaystyle|large|Large|q?quad"
    r"|(?:text)?color ?\{\w{1,9}\})(?![a-z])|[{(\[$*]"
)
_GAP = rf"(?:\s|~|\\[,;:! ]|}}|{_BEFORE_BOX})*"

_SIGN = re.compile(
    r"(?:(?:[=<≤≥≠≈({\[]|(?<=\s)\*\*?(?=\S)|(?<!<br)(?<!/)(?<!<p)(?<!<li)(?<!/p)>"  # no tag's
    r"|\\(?:[(\[]|(?:leq?|geq?|lt|gt|neq?|approx|to|therefore|Rightarrow|implies)(?![a-z]))"
    r"|(?:\A|(?<=[\s(*:]))\${1,2})(?: |\\[,;:!])*(?:\\text ?(?={))?[{(*]{0,4}"
    rf"(?:[-−–‑﹣－]|\\pm|\\mp|±){_GAP}"
    rf"|(?:\A|(?<=[\s*({{\[:]))(?:[-−‑﹣－]|\\pm|\\mp|±)(?:~|\\[,;:! ]|{_BEFORE_BOX})*"
    # minus \boxed{7}, -1 \cdot \boxed{7}; after a number or a bracket it is a difference
    r"|(?<![\w)}\]\\])(?<![\w)}\]]\$)(?<![\d)}\]$] )(?<!\b[a-z] )"
    rf"(?:(?:minus|negative)\s|\\pm|\\mp|±|(?:[-−–]1|\( ?[-−–]1 ?\))"
    rf" ?(?:\\cdot(?![a-z])|\\times(?![a-z])|[*×·]|(?<=\)))){_GAP})\Z",
    re.IGNORECASE,
)
# Once it has answered, a model that goes on to another problem answers that.
_NEXT_TASK = re.compile(
    r"\n[ \t]*(?:#{1,4}[ \t]*|\*\*)?(?:Q|Question|Problem|Exercise|System|SYSTEM)"
    r"(?:[ \t]*\d{1,3})?(?:\*\*)?[ \t]*[::]"
)

_PLACEHOLDER = re.compile(
    r"(?:\.{2,}|…|\?+|_+|-+|\*+|#+|n/?a|nan|-nan|null|tbd|todo|undefined answer|box(?:ed)?"
    r"|(?:your|the|my|final|correct|numerical|numeric|exact)?\s*(?:final|correct)?\s*"
    r"(?:answer|result|solution|value|number|expression)(?:\s*(?:here|goes here|letter))?)",
    re.IGNORECASE,
)
_WRAPPING = re.compile(
    r"\\(?:text|mathrm|mbox|textbf|textit|mathbf|ldots|dots|cdots|quad)(?![a-zA-Z])"
    r"|\\[,;:! $_]|[\s{}$<>\[\]()]"
)

# What may stand between two boxes of one listing once the formatting is gone.
_JOIN_STRIP = re.compile(
    r"\\(?:quad|qquad|text|mathrm|mbox|textbf|left|right|displaystyle|newline|hspace|vspace"
    r"|par|item|begin|end|cup|ldots|dots|cdots)(?![a-zA-Z])|\\\\|\\[,;:!\[\]() ]|[$*{}&#`>|~]"
)
_JOIN_TOKEN = re.compile(r"\\?[a-z]+|\d+|[^\W\d_a-z]+|[^\sa-z\d]")
_JOIN_OR = frozenset("or maybe perhaps possibly alternatively 或 或者 ou oder или".split())
_JOIN_HEDGE = frozenset("either maybe perhaps possibly unless whether".split())
_JOIN_DENIAL = frozenset("not wrong incorrect".split())
_JOIN_STRONG = (
    _JOIN_OR
    | _JOIN_HEDGE
    | frozenset(
        r"and also both versus vs otherwise plus else but to through until nor another one "
        r"\lor \land \vee \wedge \pm \to \rightarrow \cdot \times \div "
        "和 及 与 以及 o y e et und и".split()
    )
)
_JOIN_FILL = _JOIN_DENIAL | frozenset(
    "the answer answers is are another other one well as again it could be might may if "
    "equally likely respectively that value equal equals itemize enumerate".split()
)
_ORDINALS = frozenset("first second third fourth fifth".split())
_ROMAN = frozenset("ii iv vi ix".split())
_JOIN_LABEL = frozenset(
    "case answer option solution possibility part choice value root candidate guess number "
    "itemize enumerate step".split()
)
_JOIN_KNOWN = _JOIN_STRONG | _JOIN_FILL | _JOIN_LABEL | _ORDINALS
_SENTENCE_END = re.compile(r"[.!?。]\s|\n")


@dataclass(frozen=True)
class Extraction:
    """The answers a response commits to.

    Attributes:
        answers: one answer, or the members of a listing over several boxes; empty without one.
        reason: why there is none: ``"no_answer"`` or ``"truncated"``; empty with one.
    """

    answers: tuple[str, ...]
    reason: str = ""


def is_placeholder(answer: str) -> bool:
    """Whether a box holds nothing, or only something like "your answer", "..." or "NaN"."""
    if len(answer) > 200:
        return False
    words = " ".join(_WRAPPING.sub(" ", INVISIBLE.sub(" ", answer)).split())
    return not words.rstrip(".!:") or _PLACEHOLDER.fullmatch(words.rstrip(".!:")) is not None


def _closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one before ``start``; None if there is none."""
    depth = 1
    for token in _BRACE.finditer(text, start, start + MAX_ANSWER_CHARS):
        if token.group() == "{":
            depth += 1
        elif token.group() == "}":
            depth -= 1
            if depth == 0:
                return token.start()
    return None


def _complete_boxes(text: str) -> tuple[list[tuple[int, int, str]], bool]:
    """The last complete outermost boxes as (start, end, content), and whether any is cut off."""
    starts = list(_BOX.finditer(text))[-4 * MAX_BOXES :]
    boxes: list[tuple[int, int, str]] = []
    cut_off = False
    for match in starts:
        if boxes and match.start() < boxes[-1][1]:
            continue  # inside the box before it
        brace = match.end()
        while brace < len(text) and text[brace].isspace():
            brace += 1
        if brace < len(text) and text[brace] == "{":
            close = _closing_brace(text, brace + 1)
            if close is None:
                cut_off = True
            else:
                boxes.append((match.start(), close + 1, text[brace + 1 : close]))
            continue
        bare = _BARE.match(text, match.end())
        if bare:
            boxes.append((match.start(), bare.end(), bare.group(1)))
        else:
            cut_off = cut_off or brace >= len(text)
    return boxes, cut_off


def _is_echo(text: str, start: int, end: int, prompt: str) -> bool:
    """Whether the box stands in a passage copied from the prompt."""
    context = text[max(0, start - _ECHO_CONTEXT) : end]
    return len(context.strip()) >= end - start + 4 and context in prompt


def _join_tokens(text: str) -> list[str]:
    """The words and signs of a passage, without its typesetting."""
    plain = _JOIN_STRIP.sub(" ", text).lower().replace("as well as", "and")
    return _JOIN_TOKEN.findall(plain)


def _is_joiner(word: str) -> bool:
    return word in _JOIN_KNOWN or len(word) <= 2


def _joined(before: str, between: str) -> bool:
    """Whether the text between two boxes, and before them, makes them one listing."""
    if len(between) > 120:
        return False
    tokens = _join_tokens(between)
    if tokens and tokens[0] == "=":
        return False  # a chain of equalities: the last one is the value
    units = [t for t in tokens if len(t) > 1 and t.removesuffix("s") in UNITS]
    tokens = [t for t in tokens if t not in units or t in _ORDINALS]
    words = [token for token in tokens if token[-1].isalpha()]
    if all(map(_is_joiner, words)) and not _JOIN_STRONG.isdisjoint(words):
        return True
    if words and not _SENTENCE_END.search(between):
        if words[0] in _JOIN_OR or words[-1] in _JOIN_OR:
            return True  # "7 or, if you prefer, 8"
        if _hedged(before, words):
            return True
    for index, token in enumerate(tokens):
        following = tokens[index + 1] if index + 1 < len(tokens) else " "
        if token[-1].isalpha() and not _is_list_marker(
            token, tokens[index - 1] if index else "", following
        ):
            return False
    return True


def _hedged(before: str, between: list[str]) -> bool:
    """Whether the words that lead to a box and on to the next take it back: "if not 7, then 8"."""
    if not all(_is_joiner(word) or word == "then" for word in between):
        return False
    sentence = _SENTENCE_END.split(before)[-1]
    lead = [token for token in _join_tokens(sentence) if token[-1].isalpha()]
    words = {*takewhile(_is_joiner, reversed(lead)), *between}
    return bool(words & _JOIN_HEDGE or ("if" in words and words & _JOIN_DENIAL))


def _repeats(before: str, between: str) -> bool:
    """Whether both boxes are led to by the same words: "The answer is 7. The answer is 8."."""
    if len(between) > 120 or "<" in between:
        return False
    lead = [token for token in _join_tokens(between) if token[-1].isalnum()]
    first = [token for token in _join_tokens(before) if token[-1].isalnum()]
    return len(lead) > 0 and first[-len(lead) :] == lead


def _is_list_marker(token: str, before: str, after: str) -> bool:
    """Whether a word between two boxes only counts or names the next one: "case 2", "y ="."""
    if token in _ORDINALS or token in ("itemize", "enumerate"):
        return True
    if token in _JOIN_LABEL:
        return after.isdigit() or (len(after) == 1 and after.isalpha()) or before in _ORDINALS
    if len(token) == 1 and before in _JOIN_LABEL:
        return True
    if after == "=":
        return len(token.lstrip("\\")) <= 2
    return (len(token) == 1 or token in _ROMAN) and (after in ":).]_,₁₂₃₄" or after.isdigit())


def extract(response: str, *, prompt: str = "", require_box: bool = True) -> Extraction:
    """Find the answer of a response.

    Args:
        response: what the model wrote, special tokens and thinking included.
        prompt: what it was asked; boxes copied from there are no answers.
        require_box: False also takes what follows the last "answer:", where no box stands.
    """
    text = final_text(response)
    if text is None:
        return Extraction((), "truncated")
    boxes, cut_off = _complete_boxes(text)
    kept = [
        box
        for box in boxes
        if not is_placeholder(box[2]) and not (prompt and _is_echo(text, box[0], box[1], prompt))
    ]
    next_task = _NEXT_TASK.search(text, kept[0][1]) if kept else None
    if next_task:
        kept = [box for box in kept if box[0] < next_task.start()]
    if not kept:
        if not require_box and not cut_off:
            lines = [m.group(1).strip().strip("*_").strip() for m in _ANSWER_LINE.finditer(text)]
            lines = [line for line in lines if not is_placeholder(line)]
            if lines:
                return Extraction((lines[-1],))
        return Extraction((), "truncated" if cut_off else "no_answer")
    group = [kept[-1]]
    for box in reversed(kept[:-1]):
        before, between = text[max(0, box[0] - 240) : box[0]], text[box[1] : group[0][0]]
        if len(group) > MAX_BOXES or not (_joined(before, between) or _repeats(before, between)):
            break
        group.insert(0, box)
    answers = [box[2].strip() for box in group]
    if sign := _SIGN.search(text[max(0, group[0][0] - 24) : group[0][0]]):
        both = re.search(r"\\pm|\\mp|±", sign.group())
        answers[0] = ("\\pm " if both else "-") + f"({answers[0]})"
    return Extraction(tuple(answers))
