r"""Conditions of a value: ``k \in \mathbb{Z}``, where it is defined, when a row of cases holds."""

from __future__ import annotations

import re
from dataclasses import replace

from vespo_openrlhf.reward.comparing.expression import Expression
from vespo_openrlhf.reward.reading.normalize import compact

OPERATOR = re.compile(r"[<>=]|\\(?:le|ge|ne|in|equiv)(?![a-z])")
CONDITION_WORDS = re.compile(
    r"(?<![a-zA-Z\\])(?:if|when|for|where|is|are|an|a|the|all)(?![a-zA-Z])"
)
_OTHERWISE = re.compile("otherwise|else|elsewhere", re.IGNORECASE)
_OPPOSITES = {"<": "\\ge ", ">": "\\le ", "\\le": "> ", "\\ge": "< ", "=": "\\ne ", "\\ne": "= ",
              "even": "odd", "odd": "even", "rational": "irrational",
              "irrational": "rational"}  # fmt: skip
_OPPOSITE_RE = re.compile(r"[<>=]|\\(?:le|ge|ne)(?![a-z])|\b(?:even|odd|(?:ir)?rational)\b")
_MAX_CONDITIONED = 400
_DOMAIN = re.compile(
    r"(?P<rest>(?:[^=<>,;]{1,40}=)?(?:(?!\\(?:ne|le|ge|in|cup)(?![a-z]))[^=<>,;])+)"
    r"(?:[,;]|[,;]? ?\\text ?\{,? ?(?:for|where|if|when|with) ?\}|(?P<open>\()) ?"
    r"(?P<name>[a-z]) ?(?:\\ne(?![a-z])[^=<>,]{1,30}|"
    r"(?P<bound>(?:\\ge(?![a-z])|>) ?\d|= ?\d+(?: ?, ?\d+)+ ?, ?\.\.\.))(?(open) ?\))"
)
_CONDITION = re.compile(
    r"(?P<rest>.*?\S) ?[,;]? ?(?:\\text ?\{,? ?(?:where|with|for(?: (?:any|all|every|each|some))?"
    r"(?: (?:positive )?(?:integers?|reals?(?: numbers?)?|real numbers?))?)? ?\} ?)?"
    r"(?:(?:[,(] ?(?:\\forall ?)?|(?<=\}) ?|(?<=\} )|\\forall ?)"
    r"(?P<first>[a-zA-Z])(?: ?, ?(?!(?P=first))[a-zA-Z]){1,4}"
    r"|[,(]? ?(?:\\forall ?)?(?<![\w\\])[a-zA-Z]) ?\\in ?\\mathbb\{[ZNRQ]\}"
    r" ?(?:[_^] ?(?:\{ ?[-+*0\\a-z>\s]{1,8} ?\}|[-+*0]|\\(?:cdot|star)(?![a-z])))* ?\)?"
)
# "for all real x", "where k is an integer"
_FOR_ALL = re.compile(
    r"(?P<rest>.*[^\s,;(]) ?[,;]? ?\(?"
    r"(?:\\text ?\{,? ?for (?:(?:all|any|every|each|some)(?: [a-z]{4,11}){0,2}|integers?) ?\}"
    r"|\\forall)"
    r" ?[a-z](?![a-z(])(?: ?\\text ?\{[a-z ]{0,20}\})? ?\)?"
    r"|(?P<rest2>.*[^\s,;(]) ?[,;]? ?\\text ?\{,? ?(?:where|with|for) ?\} ?[a-z] ?"
    r"\\text ?\{ ?(?:is )?(?:an? |any )?[a-z ]{0,12}(?:integer|real|number)s? ?\}"
)
_COMMANDS = re.compile(r"\\text ?\{[^{}]*\}|\\[a-zA-Z]+")
_ALONE = r"(?<![a-zA-Z])%s(?![a-zA-Z])"  # a variable, no letter of a word


def split_condition(text: str) -> tuple[str, str] | None:
    """A value and what is said after it of its variables; None where nothing is."""
    found = None
    if "\\" in text and len(text) <= _MAX_CONDITIONED:
        found = _CONDITION.fullmatch(text) or _FOR_ALL.fullmatch(text)
    if found:
        value = (found["rest"] or found["rest2"]).rstrip(" ,")
        if not re.search(r"[(\[{|:,]$", value):
            return value.rstrip(" ,;"), text[len(value) :].strip(" ,;()")
    domain = _DOMAIN.fullmatch(text)
    if domain and (not domain["bound"] or re.search(_ALONE % domain["name"], domain["rest"])):
        return domain["rest"], text[domain.start("name") :]
    return None


def domain(condition: str) -> str:
    """The set that a condition names, by its letter and sign: Z+, or Z0 where 0 is in it."""
    found = re.search(
        r"\\mathbb\{(?P<set>[ZNRQ])\}(?P<sign>.*)"
        r"|(?P<positive>positive )?(?:(?P<Z>integer)|(?P<R>real)|(?P<N>natural))",
        condition,
    )
    if found is None:
        return ""
    letter = found["set"] or next(name for name in "ZRN" if found[name])
    written = compact(found["sign"] or "") + "+" * (found["positive"] is not None)
    sign = "0" if "0" in written and ">" not in written else "+" if ">" in written else ""
    return letter + (sign or next((s for s in "*-+" if s in written), ""))


def renamed(answer: Expression, gold: Expression) -> Expression:
    r"""The answer with what it counts by called as in the gold: ``n\pi, n \in Z`` by ``k``.

    Only where both count, and no letter stands beside another, where it might be missed.
    """
    nodes = (gold, answer)
    texts = [_letters(f"{node.name} {node.text}") for node in nodes]
    named = [set(re.findall("[a-z]", _letters(node.condition))) for node in nodes]
    if any(domain(node.condition)[:1] not in ("Z", "N") for node in nodes):
        return answer
    if any(len(found) != 1 or found <= {"e", "i"} for found in named):
        return answer
    (new,), (old,) = named
    if new in texts[1] or old in texts[0] or any(re.search("[a-zA-Z]{2}", t) for t in texts):
        return answer
    letter = re.compile(rf"(?<![a-zA-Z\\]){old}(?![a-zA-Z])")

    def rename(node: Expression) -> Expression:
        return replace(
            node,
            text=letter.sub(new, node.text),
            name=letter.sub(new, node.name),
            items=tuple(map(rename, node.items)),
        )

    return rename(answer)


def _letters(text: str) -> str:
    """A text without its commands and words."""
    return _COMMANDS.sub(" ", text)


def explicit(branch: Expression, function: Expression) -> str:
    """The condition of a row; "otherwise", of two rows, is the opposite of the other's."""
    if not _OTHERWISE.fullmatch(branch.detail.strip(" ,;.")):
        return branch.detail
    other = next((b.detail for b in function.items if b is not branch), "")
    found = _OPPOSITE_RE.findall(other)
    if len(function.items) != 2 or len(found) != 1:
        return "otherwise"
    return _OPPOSITE_RE.sub(lambda m: _OPPOSITES[m.group()], other)


def condition_key(text: str) -> list[str]:
    """A condition without its small words, in the order written where it has an operator."""
    tokens = re.findall(r"\\?[a-zA-Z]+|\d+|\S", CONDITION_WORDS.sub(" ", text).strip(" ,.;"))
    return tokens if OPERATOR.search(text) else sorted(token.lower() for token in tokens)
