# ruff: noqa: E501 - a row of a table is read whole
r"""``vespo reward fuzz``: golds changed so that they are wrong, or rewritten so that they are not.

What an answer is worth is said by an oracle of its own: a small grammar (numbers, roots, powers,
functions; tuples, lists, intervals, matrices, equations, words) read into sympy. It shares no code
with the verifier. Where it cannot read an answer, or finds that a change has not changed the value,
the case is left out, and counted.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import sympy

from vespo_openrlhf.reward.api import verify
from vespo_openrlhf.reward.labels import parse_label
from vespo_openrlhf.reward.tools.audit import label_column_of, read_rows

_THREADS = 8
_MAX_GOLD = 300
_DRAWS = 3  # of each change of a gold
_MAX_POWER = 500
_DIGITS = 40

# --- The oracle -----------------------------------------------------------------------------------

_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|\.\d+|\S")
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|(?<!\\)\\[!,;: ]|(?<!\\)[$~]")
_UNIT = re.compile(
    r"(?P<head>.*\S) ?(?P<unit>\^ ?(?:\\circ|\{ ?\\circ ?\})|\\%|\\text ?\{(?P<word>[^{}]*)\}"
    r"(?: ?\^ ?\{? ?(?P<power>\d) ?\}?)?)"
)
_BASED = re.compile(r"(\d+) ?_ ?\{? ?(\d+) ?\}?")
_CONDITION = re.compile(
    r"(?P<head>.*?\S) ?,? ?(?:\\text ?\{ ?(?:for|where|with|if) ?\})?(?<![(\[{|])[, ]"
    r"(?P<condition>[a-z] ?(?:\\in ?\\mathbb ?\{? ?[A-Z] ?\}?|\\ne ?-?\d+))"
)
_OPERATORS = {"<": "<", ">": ">", "\\le": "<=", "\\leq": "<=", "\\ge": ">=", "\\geq": ">="}
_RELATION = r"<|>|\\[lg]eq?(?![a-z])"
_OPEN, _CLOSE = ("(", "[", "{", "\\{"), (")", "]", "}", "\\}")
_FUNCTIONS = {name: getattr(sympy, name) for name in "sin cos tan cot sec csc".split()}
_FUNCTIONS |= {"ln": sympy.log, "log": lambda x: sympy.log(x, 10)}


class _UnknownError(Exception):
    """The oracle cannot say."""


@dataclass(frozen=True)
class Value:
    """What a text is worth.

    Attributes:
        kind: scalar, words, based, equation, relation, ratio, tuple, interval, list, matrix, cases.
        items: what it holds.
        unit: what stands after a scalar.
        condition: of what variables, where it says.
    """

    kind: str
    items: tuple[Any, ...]
    unit: str = ""
    condition: str = ""


def _number(text: str) -> Any:
    return sympy.Rational(text if text[0] != "." else "0" + text)


class _Grammar:
    """One scalar, by recursive descent."""

    def __init__(self, text: str) -> None:
        self.tokens = _TOKEN.findall(text)

    def next(self) -> str:
        return self.tokens[0] if self.tokens else ""

    def take(self, *wanted: str) -> str:
        if not self.tokens or (wanted and self.tokens[0] not in wanted):
            raise _UnknownError
        return self.tokens.pop(0)

    def whole(self) -> Any:
        value = self.sum()
        if self.tokens:
            raise _UnknownError
        return value

    def sum(self) -> Any:
        value = self.product()
        while self.next() in ("+", "-"):
            sign = -1 if self.take() == "-" else 1
            value += sign * self.product()
        return value

    def product(self) -> Any:
        sign = 1
        while self.next() in ("+", "-"):
            sign *= -1 if self.take() == "-" else 1
        value, before = self.power(), "number"
        while self.tokens and self.next() not in ("+", "-", *_CLOSE):
            operator = self.take() if self.next() in ("\\cdot", "\\times", "/", "*") else ""
            if self.next() in ("+", "-") or (not operator and self.next()[0] in ".0123456789"):
                raise _UnknownError
            factor = self.power()
            if before == "/" and not operator:
                raise _UnknownError  # a/bc
            value = value / factor if operator == "/" else value * factor
            before = operator or "beside"
        return sign * value

    def power(self) -> Any:
        base = self.atom()
        if self.next() == "^":
            self.take()
            exponent = self.argument()
            large = abs(exponent) > _MAX_POWER if exponent.is_number else base.free_symbols
            if large or base == exponent == 0:
                raise _UnknownError
            base = base**exponent
            if self.next() == "^":
                raise _UnknownError
        return base

    def applied(self) -> Any:
        """What a function is of: a group, or the numbers and letters that follow."""
        grouped = self.next() in ("(", "{")
        value = self.power()
        while not grouped and re.fullmatch(r"[a-hj-zA-Z]|\\pi", self.next()):
            value *= self.power()
        operator, after = (*self.tokens[:2], "", "")[:2]
        if (
            not grouped
            and operator in ("\\cdot", "\\times", "*", "/")
            and after[1:] not in _FUNCTIONS
        ):
            raise _UnknownError  # \sin 3 \cdot x
        return value

    def argument(self) -> Any:
        """What a command or a caret takes: a group, or one character."""
        token = self.next()
        if token == "{":
            return self.group("{", "}")
        if token.isdigit() and len(token) > 1:
            self.tokens[0] = token[1:]
            return _number(token[0])
        if token in ("+", "-", ""):
            raise _UnknownError
        return self.atom()

    def group(self, opening: str, closing: str) -> Any:
        self.take(opening)
        value = self.sum()
        self.take(closing)
        return value

    def atom(self) -> Any:
        value = self._atom()
        if self.next() == "!":
            self.take()
            if not (value.is_Integer and 0 <= value < 100):
                raise _UnknownError
            return sympy.factorial(value)
        return value

    def _atom(self) -> Any:
        token = self.next()
        if token in ("(", "{"):
            return self.group(token, {"(": ")", "{": "}"}[token])
        self.take()
        if token == "\\binom":
            return sympy.binomial(self.argument(), self.argument())
        if token == "\\log" and self.next() == "_":
            self.take()
            base = self.argument()
            return sympy.log(self.applied(), base)
        if token[0] in ".0123456789":
            value = _number(token)
            if self.next() == "\\frac" and token.isdigit():  # a mixed number, or a product
                part = self.atom()
                if not (part.is_Rational and 0 < part < 1):
                    raise _UnknownError
                return value + part
            return value
        if token == "\\frac":
            top, bottom = self.argument(), self.argument()
            if bottom == 0:
                raise _UnknownError
            return top / bottom
        if token == "\\sqrt":
            degree = self.group("[", "]") if self.next() == "[" else 2
            inside = self.argument()
            return (
                sympy.real_root(inside, degree)
                if inside.is_number
                else inside ** (1 / sympy.S(degree))
            )
        if token[1:] in _FUNCTIONS and token[0] == "\\":
            return _FUNCTIONS[token[1:]](self.applied())
        names = {"\\pi": sympy.pi, "e": sympy.E, "i": sympy.I, "\\infty": sympy.oo}
        if token in names:
            return names[token]
        if token.isalpha() and len(token) == 1 and token.isascii():
            if self.next() == "_":
                self.take()
                token += f"_{self.argument()}"
            return sympy.Symbol(token, positive=True)
        raise _UnknownError


def _split(text: str, separators: str) -> list[str]:
    """Pieces between separators that stand outside all brackets."""
    pieces, depth, start = [], 0, 0
    for match in re.finditer(rf"(?P<sep>{separators})|{_TOKEN.pattern}", text):
        token = match.group()
        if match["sep"] is not None and depth == 0:
            pieces.append(text[start : match.start()].strip())
            start = match.end()
        depth += (token in _OPEN) - (token in _CLOSE)
    return [*pieces, text[start:].strip()]


def _plain(text: str) -> str:
    """Without what only lays out: sizes, spaces, dollars, separators of thousands."""
    text = _LAYOUT.sub(" ", re.sub(r"\\! *", "", text))
    text = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"\\(?:mbox|textbf|mathrm)(?![a-zA-Z])", r"\\text", text)
    text = re.sub(r"\A\{((?:[^{}]|\{[^{}]*\})*)\}\Z", r"\1", text)
    text = re.sub(r"(?<!\d)\d{1,3}(?:(?:\{,\}|,)\d{3})+(?![\d,])", _joined(text), text)
    return re.sub(r"\s+", " ", text).strip().rstrip(".").strip()


def _joined(text: str) -> Callable[[re.Match[str]], str]:
    def join(match: re.Match[str]) -> str:
        before = text[: match.start()]
        inside = any(before.count(o) > before.count(c) for o, c in ("()", "[]", "{}"))
        return match.group() if inside else re.sub(r"[{},]", "", match.group())

    return join


def evaluate(text: str) -> Value:
    """What a gold or an answer is worth.

    Raises:
        _UnknownError: it is beyond this grammar.
    """
    return _shape(_plain(text))


def _shape(text: str) -> Value:
    words = re.fullmatch(r"\\text ?\{([^{}]*)\}", text)
    if words and not re.search(r"\d", text):
        return Value("words", ("".join(re.findall("[a-z]+", words[1].lower())),))
    if based := _BASED.fullmatch(text):
        return Value("based", based.groups())
    matrix = re.fullmatch(r"\\begin ?\{[pb]matrix\}(.*)\\end ?\{[pb]matrix\}", text)
    if matrix:
        rows = (_split(row, "&") for row in re.split(r"\\\\", matrix[1]) if row.strip())
        return Value("matrix", tuple(Value("tuple", tuple(map(_shape, row))) for row in rows))
    cases = re.fullmatch(r"(?:[a-z]\([a-z]\) ?= ?)?\\begin ?\{cases\}(.*)\\end ?\{cases\}", text)
    if cases:
        return Value("cases", tuple(map(_branch, re.split(r"\\\\", cases[1]))))
    if "\\begin" in text or not text:
        raise _UnknownError
    if condition := _CONDITION.fullmatch(text):
        value = _shape(condition["head"].strip(" ,"))
        return replace(value, condition=re.sub(r"[{} ]", "", condition["condition"]))
    if member := re.fullmatch(r"[a-z] ?\\in(?![a-z]) ?(?P<set>.*)", text):
        return _shape(member["set"])
    for separator in (r"\\cup(?![a-z])", ",|;|\\\\text ?\\{ ?(?:and|or) ?\\}"):
        pieces = _split(text, separator)
        if len(pieces) > 1:
            return Value("list", tuple(i for p in pieces for i in _members(_shape(p))))
    parts, signs = _split(text, _RELATION), re.findall(_RELATION, text)
    if len(parts) > 1:
        return _relation(parts, [_OPERATORS[sign] for sign in signs])
    terms = _split(text, ":")
    if len(terms) > 1:
        return Value("ratio", tuple(_Grammar(term).whole() for term in terms))
    sides = _split(text, "=")
    if len(sides) == 2:
        return Value("equation", (_Grammar(sides[0]).whole() - _Grammar(sides[1]).whole(),))
    if re.search(r"\\(?:pm|mp)(?![a-z])", text):
        if text.count("\\pm") > 1 or "\\mp" in text:
            raise _UnknownError
        both = (text.replace("\\pm", sign) for sign in "+-")
        return Value("list", tuple(map(_shape, both)))
    return _bracketed(text) or _scalar(text)


def _branch(row: str) -> Value:
    value, _, condition = row.strip().rstrip(",").partition("&")
    condition = re.sub(r"\\text ?\{ ?(?:if|for|when) ?\}|^ ?(?:if|for|when) ", "", condition)
    return Value("branch", (_shape(value.strip(" ,")), _shape(condition.strip(" ,"))))


def _relation(parts: list[str], operators: list[str]) -> Value:
    """An interval, where it is of one variable alone."""
    if len(parts) == 3 and all(operator[0] == ">" for operator in operators):
        parts, operators = parts[::-1], [o.replace(">", "<") for o in operators[::-1]]
    values = [_Grammar(part).whole() for part in parts]
    if len(values) == 2 and operators[0][0] == ">":
        values, operators = values[::-1], [operators[0].replace(">", "<")]
    brackets = [("[", "]") if "=" in operator else ("(", ")") for operator in operators]
    scalars = [Value("scalar", (value,)) for value in values]
    letters = [value.is_Symbol for value in values]
    if letters == [False, True, False] and all(operator[0] == "<" for operator in operators):
        return Value("interval", (brackets[0][0] + brackets[1][1], scalars[0], scalars[2]))
    if letters == [False, True]:
        high = Value("scalar", (sympy.oo,))
        return Value("interval", (brackets[0][0] + ")", scalars[0], high))
    if letters == [True, False]:
        return Value("interval", ("(" + brackets[0][1], Value("scalar", (-sympy.oo,)), scalars[1]))
    if len(values) != 2:
        raise _UnknownError
    return Value("relation", (operators[0], values[0] - values[1]))


def _members(value: Value) -> tuple[Any, ...]:
    return value.items if value.kind == "list" else (value,)


def _bracketed(text: str) -> Value | None:
    if text.startswith("\\{") and text.endswith("\\}"):
        return _shape(text[2:-2].strip())
    if text[0] in "([" and text[-1] in ")]":
        pieces = _split(text[1:-1], ",")
        if len(pieces) == 2 and text[0] + text[-1] != "()":
            return Value("interval", (text[0] + text[-1], *map(_shape, pieces)))
        if len(pieces) > 1 and text[0] + text[-1] == "()":
            return Value("tuple", tuple(map(_shape, pieces)))
    return None


def _scalar(text: str) -> Value:
    unit = ""
    if text.startswith("\\$"):
        text, unit = text[2:].strip(), "$"
    if not unit and (trailing := _UNIT.fullmatch(text)):
        text = trailing["head"]
        unit = trailing["unit"].strip("^{} ") if trailing["word"] is None else trailing["word"]
        unit = re.sub(r"(?<=[a-z]{2})s$", "", unit.strip()) + (trailing["power"] or "")
    return Value("scalar", (_Grammar(text).whole(),), unit)


def _same_number(left: Any, right: Any) -> bool:
    if left == right:
        return True
    if left.has(sympy.oo, sympy.zoo, sympy.nan) or right.has(sympy.oo, sympy.zoo, sympy.nan):
        return False
    difference = sympy.expand(left - right)
    if difference == 0:
        return True
    for at in (sympy.Rational(17, 7), sympy.Rational(5, 11)):
        symbols = sorted(left.free_symbols | right.free_symbols, key=str)
        point = {symbol: at + 3 * index for index, symbol in enumerate(symbols)}
        size = abs(sympy.N(left.subs(point), _DIGITS)) + 1
        if abs(sympy.N(difference.subs(point), _DIGITS)) > size * sympy.Float(10) ** -20:
            return False
    if sympy.simplify(difference) == 0:
        return True
    raise _UnknownError


def same(left: Value, right: Value) -> bool:
    """Whether two texts are worth the same.

    Raises:
        _UnknownError: that is not for this oracle to say.
    """
    kinds = {left.kind, right.kind}
    if len(kinds) == 2:
        pair, interval = (left, right) if left.kind == "tuple" else (right, left)
        if kinds == {"tuple", "interval"} and interval.items[0] == "()":
            return same(pair, replace(interval, kind="tuple", items=interval.items[1:]))
        if kinds in ({"tuple", "interval"}, {"scalar", "list"}, {"scalar", "tuple"}):
            return False
        raise _UnknownError
    if left.condition and right.condition and left.condition != right.condition:
        if left.condition[0] == right.condition[0]:
            return False
        raise _UnknownError
    if left.kind in ("words", "based"):
        return left.items == right.items
    if left.kind == "ratio":
        factors = [a / b for a, b in zip(left.items, right.items, strict=False) if b != 0]
        return len(left.items) == len(right.items) and all(
            _same_number(a, factors[0] * b) for a, b in zip(left.items, right.items, strict=True)
        )
    if left.kind == "relation":
        ratio = sympy.simplify(left.items[1] / right.items[1])
        return left.items[0] == right.items[0] and bool(ratio.is_number and ratio.is_positive)
    if left.kind == "scalar":
        if left.unit and right.unit and left.unit != right.unit:
            return False
        return _same_number(left.items[0], right.items[0])
    if left.kind == "equation":
        return _same_equation(left.items[0], right.items[0])
    if left.kind == "interval" and left.items[0] != right.items[0]:
        return False
    if left.kind in ("list", "cases"):
        return _each_in(left.items, right.items) and _each_in(right.items, left.items)
    first = 1 if left.kind == "interval" else 0
    pairs = zip(left.items[first:], right.items[first:], strict=False)
    return len(left.items) == len(right.items) and all(same(a, b) for a, b in pairs)


def _each_in(some: Iterable[Value], others: tuple[Value, ...]) -> bool:
    return all(any(same(one, other) for other in others) for one in some)


def _same_equation(left: Any, right: Any) -> bool:
    ratio = sympy.simplify(left / right) if right != 0 else sympy.nan
    if not ratio.is_number and left.free_symbols == right.free_symbols:
        return _same_number(ratio, ratio.subs({s: sympy.Integer(1) for s in ratio.free_symbols}))
    return bool(ratio.is_number and ratio.is_finite and ratio != 0)


# --- What golds are made into ---------------------------------------------------------------------

Change = Callable[[str, random.Random], str | None]
_FRACTION = r"\\[dt]?frac ?(?:\{(?P<a>[^{}]*)\}|(?P<a1>\d)) ?(?:\{(?P<b>[^{}]*)\}|(?P<b1>\d))"
_START = r"(?:^|(?<=[(\[,=&]))(?P<space> ?)(?P<minus>-?) ?(?=[\d\\.a-zA-Z])"
_UNITS = {"cm": "m", "degrees": "radians", "inches": "feet", "cents": "dollars", "units": "pairs",
          "feet": "inches", "miles": "feet", "hours": "minutes", "meters": "feet"}  # fmt: skip


def _one(pattern: str, replacement: str | Callable[[re.Match[str], random.Random], str]) -> Change:
    """A change of one match of a pattern, drawn at random: to a template, or what a function says."""
    compiled = re.compile(pattern)

    def change(text: str, source: random.Random) -> str | None:
        found = list(compiled.finditer(text))
        if not found:
            return None
        match = source.choice(found)
        new = (
            match.expand(replacement)
            if isinstance(replacement, str)
            else replacement(match, source)
        )
        return text[: match.start()] + new + text[match.end() :]

    return change


def _all(pattern: str, template: str) -> Change:
    compiled = re.compile(pattern)
    return lambda text, _: compiled.sub(template, text)


def _parts(reorder: Callable[[list[str], random.Random], list[str]], separators: str) -> Change:
    """A change of the parts within a text's outer brackets."""

    def change(text: str, source: random.Random) -> str | None:
        match = re.fullmatch(
            r"((?:[a-z] ?\\in ?)?(?:\\left ?)?(?:[(\[]|\\\{)|\\begin ?\{[a-z]*\})(.*?)"
            r"((?:\\right ?)?(?:[)\]]|\\\})|\\end ?\{[a-z]*\})",
            text,
        )
        opening, inside, closing = match.groups() if match else ("", text, "")
        pieces = _split(inside, separators)
        joints = re.findall(separators, inside)
        if len(pieces) < 2 or len(set(joints)) != 1:
            return None
        return opening + joints[0].join(reorder(pieces, source)) + closing

    return change


def _swap(pieces: list[str], source: random.Random) -> list[str]:
    first, second = source.sample(range(len(pieces)), 2)
    pieces[first], pieces[second] = pieces[second], pieces[first]
    return pieces


def _drop(pieces: list[str], source: random.Random) -> list[str]:
    out = source.randrange(len(pieces))
    return pieces[:out] + pieces[out + 1 :]


def _more(pieces: list[str], source: random.Random) -> list[str]:
    return [*pieces, str(source.randint(100, 999))]


def _ends(match: re.Match[str]) -> tuple[str, str]:
    return match["a"] or match["a1"] or "", match["b"] or match["b1"] or ""


def _numbers_swapped(text: str, source: random.Random) -> str | None:
    found = list(re.finditer(r"\d+", text))
    if len(found) < 2:
        return None
    first, second = sorted(source.sample(range(len(found)), 2))
    one, two = found[first], found[second]
    return (
        f"{text[: one.start()]}{two[0]}{text[one.end() : two.start()]}{one[0]}{text[two.end() :]}"
    )


def _operator(match: re.Match[str], source: random.Random) -> str:
    return source.choice([o for o in ("<", ">", "\\le ", "\\ge ") if o.strip() != match[0]])


def _turned(match: re.Match[str], _: random.Random) -> str:
    flipped = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le", "\\leq": "\\geq",
               "\\geq": "\\leq"}  # fmt: skip
    return f"{match['r']} {flipped[match['o']]} {match['l']}"


def _as_interval(text: str, _: random.Random) -> str | None:
    match = re.fullmatch(r"([^<>]+?) ?(<|\\leq?) ?[a-z] ?(<|\\leq?) ?([^<>a-z]+)", text)
    if match is None:
        return None
    low, left, right, high = match.groups()
    return f"{'(' if left == '<' else '['}{low}, {high}{')' if right == '<' else ']'}"


def _rounded(text: str, source: random.Random) -> str | None:
    value = evaluate(text)
    if value.kind != "scalar" or not value.items[0].is_real:
        return None
    return f"{float(value.items[0]):.{source.choice((2, 4, 6))}f}"


def _decimal(match: re.Match[str], _: random.Random) -> str:
    top, bottom = _ends(match)
    if not (top.strip().isdigit() and bottom.strip().isdigit() and int(bottom)):
        return match.group()
    value = sympy.Rational(int(top), int(bottom))
    exact = set(sympy.factorint(value.q)) <= {2, 5}  # else the policy has a rule of its own
    return f"{float(value)!r}" if exact else match.group()


def _tripled(match: re.Match[str], _: random.Random) -> str:
    top, bottom = (str(3 * int(x)) if x.isdigit() else f"3({x})" for x in _ends(match))
    return f"\\frac{{{top}}}{{{bottom}}}"


def _root_below(match: re.Match[str], _: random.Random) -> str:
    top = int(match["k"] or 1) * int(match["n"])
    return f"\\frac{{{top}}}{{{match['d']}\\sqrt{{{match['n']}}}}}"


def _reprinted(text: str, source: random.Random) -> str | None:
    value = evaluate(text)
    if value.kind != "scalar" or not value.items[0].free_symbols:
        return None
    form = source.choice((sympy.expand, sympy.factor))
    return str(sympy.latex(form(value.items[0])))


def _terms(text: str, _: random.Random) -> str | None:
    """A sum that begins with its last term."""
    if "=" in text or "," in text or "\\pm" in text:
        return None
    at = [m.start() for m in re.finditer(r"[-+]", text) if m.start()]
    at = [i for i in at if all(text[:i].count(o) == text[:i].count(c) for o, c in ("()", "{}"))]
    if not at:
        return None
    first, last = text[: at[-1]].strip(), text[at[-1] :].strip()
    return f"{last.removeprefix('+').strip()} {'' if first[0] == '-' else '+ '}{first}"


def _other(letters: str) -> Callable[[re.Match[str], random.Random], str]:
    return lambda m, source: source.choice([c for c in letters if c != m.group()])


MUTATIONS: dict[str, Change] = {
    "sign": _one(r"[-+]", lambda m, _: "+" if m.group() == "-" else "-"),
    "leading sign": _one(_START, lambda m, _: m["space"] + ("" if m["minus"] else "-")),
    "off by one": _one(r"\d+", lambda m, source: str(abs(int(m.group()) + source.choice((-1, 1))))),
    "numbers swapped": _numbers_swapped,
    "digit": _one(r"\d", _other("0123456789")),
    "digits swapped": _one(r"(\d)(\d)", r"\2\1"),
    "digit dropped": _one(r"\d(?=\d)", ""),
    "exponent": _one(r"(?<=\^)(?P<b> ?\{?)(?P<n>\d+)", lambda m, _: f"{m['b']}{int(m['n']) + 1}"),
    "exponent dropped": _one(r"\^ ?(?:\{[^{}]*\}|\d)", ""),
    "squared": _one(r"(?<![\\a-zA-Z{])[a-z](?![a-zA-Z])|\d(?![\d.,_])|\\pi", r"\g<0>^2"),
    "upside down": _one(_FRACTION, r"\\frac{\g<b>\g<b1>}{\g<a>\g<a1>}"),
    "factor dropped": _one(
        r"\\pi|\\sqrt ?(?:\{[^{}]*\}|\d)|(?<![a-zA-Z\\{])[a-z](?![a-zA-Z])|\d+ ?(?=[\\a-z(])",
        "",
    ),
    "root dropped": _one(r"\\sqrt ?(?=\{|\d)", ""),
    "parts swapped": _parts(_swap, r",|&"),
    "ends swapped": _one(
        r"(?<=[(\[])([^()\[\],<>]+),([^()\[\],<>]+)(?=[)\]])", r"\2,\1"
    ),
    "term dropped": _one(r"(?<=[\w)}]) ?[-+] ?[^-+(){}=,<>|&]+(?=$|[-+=)])", ""),
    "another function": _one(
        r"\\(?:sin|cos|tan|ln|log)(?![a-z_])",
        lambda m, source: source.choice(["\\sin", "\\cos", "\\tan", "\\ln"]),
    ),
    "product for a sum": _one(r"(?<=[\w)}]) ?[-+] ?(?=[\w(\\])", r" \\cdot "),
    "sum for a product": _one(r"(?<=[\d)])(?=\\sqrt|\\pi|[a-z(])| ?\\cdot ", "+"),
    "rows swapped": _parts(_swap, r"\\\\"),
    "part dropped": _parts(_drop, r",|\\\\|\\cup"),
    "part added": _parts(_more, r","),
    "opening bracket": _one(r"^\(|(?<=\\left)\(|^\[|(?<=\\left)\[|(?<=cup )\(", lambda m, _: "[" if m.group() == "(" else "("),
    "closing bracket": _one(r"[)\]]$|[)\]](?= \\cup)", lambda m, _: "]" if m.group() == ")" else ")"),
    "unit": _one(r"(?<![a-z])(?:" + "|".join(_UNITS) + ")(?![a-z])", lambda m, _: _UNITS[m[0]]),
    "another unit": _one(r"\^ ?\\circ$|\^ ?\{ ?\\circ ?\}$", r"\\text{ cm}"),
    "another operator": _one(r"<|>|\\[lg]eq?(?![a-z])", _operator),
    "another domain": _one(r"(?<=\\mathbb\{)[ZNRQ]", _other("ZNRQ")),
    "another exception": _one(r"(?<=\\ne )\d", _other("123456789")),
    "base": _one(r"(?<=_)(?P<b>\{?)(?P<n>\d+)", lambda m, _: f"{m['b']}{int(m['n']) + 1}"),
    "letter": _one(r"(?<![\\a-zA-Z{])[a-df-hj-z](?![a-zA-Z{])", _other("abkmnpqrxyz")),
    "word": _one(r"(?<=[{(a-zA-Z])[a-zA-Z](?=[a-zA-Z ]*\)?\}$)", _other("bcdfgknqtz")),
    "point moved": _one(r"(\d*)\.(\d)", r"\1\2."),
    "rounded": _rounded,
}  # fmt: skip
REWRITES: dict[str, Change] = {
    "spaces": _all(r"(?<=[\d)}])(?=[-+,=])|(?<=[-+,=(\[])(?=[\d\\])", " "),
    "no spaces": _all(r"(?<![a-zA-Z]) +| +(?![a-zA-Z])", ""),
    "thin spaces": _all(r"(?<=[,+=]) ?(?=[\d\\-])", r"\\,"),
    "dfrac": _all(r"\\frac", r"\\dfrac"),
    "tfrac": _all(r"\\[d]?frac", r"\\tfrac"),
    "braces": _all(r"(?<=\^)\d(?!\d)|(?<=_)\d+", r"{\g<0>}"),
    "fraction braces": _all(_FRACTION, r"\\frac{ \g<a>\g<a1> }{ \g<b>\g<b1> }"),
    "braces around": lambda text, _: "{" + text + "}",
    "dollars": lambda text, _: f"${text}$",
    "full stop": _all(r"(?<!\.)\Z", "."),
    "left, right": lambda text, _: (
        re.sub(r"[(\[]", lambda m: "\\left" + m.group(),
               re.sub(r"[)\]]", lambda m: "\\right" + m.group(), text))
        if "\\left" not in text and "\\text" not in text and "\\sqrt[" not in text else None
    ),
    "no left, right": _all(r"\\(?:left|right)(?![a-z]) ?", ""),
    "slash": _one(_FRACTION, r"\g<a>\g<a1>/\g<b>\g<b1>"),
    "slash in brackets": _one(_FRACTION, r"(\g<a>\g<a1>)/(\g<b>\g<b1>)"),
    "not reduced": _one(_FRACTION, _tripled),
    "sign in front": _one(r"\\frac ?\{-(\d+)\} ?(\{\d+\})", r"-\\frac{\1}\2"),
    "sign on top": _one(r"-(\\frac) ?\{(\d+)\}", r"\1{-\2}"),
    "decimal": _one(_FRACTION, _decimal),
    "decimal of an integer": _one(r"^-?\d+$", r"\g<0>.0"),
    "zeros": _one(r"\.\d+", r"\g<0>0"),
    "zero in front": _one(r"(?<!\d)\.\d+", r"0\g<0>"),
    "thousands": _one(r"^-?\d{4,9}$", lambda m, _: f"{int(m.group()):,}"),
    "thousands in braces": _one(r"^-?\d{4,9}$", lambda m, _: f"{int(m.group()):,}".replace(",", "{,}")),
    "fraction": _one(r"^(\d*)\.(\d{1,6})$", lambda m, _: f"\\frac{{{int(m[1] + m[2])}}}{{{10 ** len(m[2])}}}"),
    "order": _parts(lambda pieces, _: pieces[::-1], r", ?|\\cup"),
    "order of terms": _terms,
    "order of factors": _one(r"^(\d+) ?(\\sqrt ?(?:\{[^{}]*\}|\d)|\\pi|[a-z])$", r"\2 \\cdot \1"),
    "order of brackets": _one(r"(\([^()]*\))(\([^()]*\))", r"\2\1"),
    "dot": _one(r"(?<=\d) ?(?=\\sqrt|\\pi|[a-z](?![a-z])|\()", r" \\cdot "),
    "times": _one(r"(?<=\d) ?(?=\\sqrt|\\pi|[a-z](?![a-z])|\()", r" \\times "),
    "root as a power": _one(r"\\sqrt ?\{(\w+)\}", r"\1^{1/2}"),
    "root below": _one(r"\\frac ?\{(?P<k>\d*)\\sqrt ?\{(?P<n>\d+)\}\} ?\{(?P<d>\d+)\}", _root_below),
    "unit after": _one(r"^[^\\,=_a-zA-Z]*\d$|^\\frac[^\\,=_]*$", r"\g<0>\\text{ units}"),
    "sign on both": _one(r"^(?P<l>[a-z]) ?= ?(?P<r>.*)$", r"\g<r> = \g<l>"),
    "turned round": _one(
        r"^(?P<l>[^<>=,]+?) ?(?P<o><|>|\\[lg]eq?(?![a-z])) ?(?P<r>(?:(?!\\[lg]e)[^<>=,])+)$", _turned
    ),
    "as an interval": _as_interval,
    "rows in another order": _parts(lambda pieces, _: pieces[::-1], r"\\\\"),
    "condition dropped": _one(r",? ?(?:\\text ?\{[a-z ]*\} ?)?[a-z] ?(?:\\in ?\\mathbb|\\ne).*$", ""),
    "reprinted": _reprinted,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """An answer made from a gold: what it should be judged, and what it was."""

    gold: str
    answer: str
    change: str
    expected: bool
    got: str = ""

    @property
    def disagrees(self) -> bool:
        """Whether the verifier judged otherwise; nothing was judged where it was busy."""
        return self.got not in _UNJUDGED and self.expected != (self.got == "correct")


_UNJUDGED = ("overloaded", "unavailable")


def cases_of(gold: str, seed: int) -> tuple[list[Case], int]:
    """The cases of a gold, and how many were left out. The same for the same gold and seed."""
    source = random.Random(f"{seed} {gold}")
    cases: dict[str, Case] = {}
    left_out: set[str] = set()
    try:
        value = evaluate(gold) if len(gold) <= _MAX_GOLD else None
    except Exception:  # sympy raises much, on odd input
        value = None
    for table in (MUTATIONS, REWRITES):
        for name, change in [item for item in table.items() for _ in range(_DRAWS)]:
            try:
                answer = change(gold, source)
            except Exception:
                answer = None
            if answer is None or answer == gold or answer in cases.keys() | left_out:
                continue
            try:
                equal = None if value is None else same(value, evaluate(answer))
            except Exception:
                equal = None
            if equal is None or (equal and table is MUTATIONS):
                left_out.add(answer)
            else:
                cases[answer] = Case(gold, answer, name, equal)
    return list(cases.values()), len(left_out)


def fuzz(golds: Iterable[str], seed: int = 0) -> dict[str, Any]:
    """Judge what golds are made into.

    Returns:
        ``golds``, ``cases``, ``left_out``, ``wrong`` and ``equivalent`` (cases that must be refused
        and accepted), ``unjudged``, ``wrong_accepted`` and ``equivalent_rejected`` (lists of
        :class:`Case`).
    """
    from tqdm import tqdm

    distinct = list(dict.fromkeys(golds))
    made: list[Case] = []
    left_out = 0

    def judged(case: Case) -> Case:
        reason = verify(f"\\boxed{{{case.answer}}}", case.gold).reason
        return Case(case.gold, case.answer, case.change, case.expected, reason)

    with ThreadPoolExecutor(_THREADS) as threads:
        for gold in tqdm(distinct, desc="fuzzing", unit=" golds"):
            cases, out = cases_of(gold, seed)
            left_out += out
            made.extend(threads.map(judged, cases))
    wrong = [case for case in made if case.disagrees]
    return {
        "golds": len(distinct),
        "cases": len(made),
        "left_out": left_out,
        "wrong": sum(not case.expected for case in made),
        "equivalent": sum(case.expected for case in made),
        "unjudged": sum(case.got in _UNJUDGED for case in made),
        "wrong_accepted": [case for case in wrong if not case.expected],
        "equivalent_rejected": [case for case in wrong if case.expected],
    }


def main(path: str, label_key: str | None, seed: int, limit: int | None, as_json: bool) -> int:
    """Print what the verifier and the oracle disagree in; 1 if a wrong answer was accepted."""
    rows = read_rows(path)
    column = label_column_of(rows, label_key)
    labels = [parse_label(row.get(column)) for row in rows]
    golds = [g for label in labels if label.type == "math" for g in label.golds if g.strip()]
    report = fuzz(golds[:limit], seed)
    accepted, rejected = report["wrong_accepted"], report["equivalent_rejected"]
    if as_json:
        plain = {k: list(map(asdict, v)) if isinstance(v, list) else v for k, v in report.items()}
        print(json.dumps(plain))
        return 1 if accepted else 0
    for case in (*accepted, *rejected):
        expected = "correct" if case.expected else "wrong"
        print(f"gold {case.gold!r}  answer {case.answer!r} ({case.change})")
        print(f"  expected {expected}, got {case.got}")
    for name, found, total in (
        ("wrong answers accepted", accepted, report["wrong"]),
        ("equivalents rejected", rejected, report["equivalent"]),
    ):
        share = len(found) / total if total else 0.0
        print(f"{name}: {len(found)} of {total} ({share:.2%})", end="")
        kinds = Counter(case.change for case in found).most_common()
        print("".join(f", {change} {count}" for change, count in kinds))
    print(
        f"{report['golds']} golds, {report['cases']} cases, seed {seed}; {report['left_out']} "
        f"left out, as the oracle cannot tell; {report['unjudged']} not judged"
    )
    return 1 if accepted else 0
