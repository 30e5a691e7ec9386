"""The fuzzer's oracle: what an answer is worth, said without the verifier's code.

A small grammar (numbers, roots, powers, functions; tuples, lists, intervals, matrices, equations,
words) read into sympy. What it cannot read raises :class:`UnknownError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import sympy

_MAX_POWER = 500
_DIGITS = 40
_TOKEN = re.compile(r"\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|\.\d+|\S")
_LAYOUT = re.compile(r"\\(?:left|right|displaystyle)(?![a-zA-Z])|(?<!\\)\\[!,;: ]|(?<!\\)[$~]")
_UNIT = re.compile(
    r"(?P<head>.*\S) ?(?P<unit>\^ ?(?:\\circ|\{ ?\\circ ?\})|\\%|\\text ?\{(?P<word>[^{}]*)\}"
    r"(?: ?\^ ?\{? ?(?P<power>\d) ?\}?)?)"
)
_BASED = re.compile(r"(\d+) ?_ ?\{? ?(\d+) ?\}?")
_CASES = re.compile(r"(?:[a-z]\([a-z]\) ?= ?)?\\begin ?\{cases\}(.*)\\end ?\{cases\}")
_CONDITION = re.compile(
    r"(?P<head>.*?\S) ?,? ?(?:\\text ?\{ ?(?:for|where|with|if) ?\})?(?<![(\[{|])[, ]"
    r"(?P<condition>[a-z] ?(?:\\in ?\\mathbb ?\{? ?[A-Z] ?\}?|\\ne ?-?\d+))"
)
_OPERATORS = {"<": "<", ">": ">", "\\le": "<=", "\\leq": "<=", "\\ge": ">=", "\\geq": ">="}
_RELATION = r"<|>|\\[lg]eq?(?![a-z])"
_OPEN, _CLOSE = ("(", "[", "{", "\\{"), (")", "]", "}", "\\}")
_CONSTANTS = {"\\pi": sympy.pi, "e": sympy.E, "i": sympy.I, "\\infty": sympy.oo}
_TIMES = ("\\cdot", "\\times", "*", "/")
_FUNCTIONS = {name: getattr(sympy, name) for name in "sin cos tan cot sec csc".split()}
_FUNCTIONS |= {"ln": sympy.log, "log": lambda x: sympy.log(x, 10)}


class UnknownError(Exception):
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
            raise UnknownError
        return self.tokens.pop(0)

    def whole(self) -> Any:
        value = self.sum()
        if self.tokens:
            raise UnknownError
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
            operator = self.take() if self.next() in _TIMES else ""
            if self.next() in ("+", "-") or (not operator and self.next()[0] in ".0123456789"):
                raise UnknownError
            factor = self.power()
            if before == "/" and not operator:
                raise UnknownError  # a/bc
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
                raise UnknownError
            base = base**exponent
            if self.next() == "^":
                raise UnknownError
        return base

    def applied(self) -> Any:
        """What a function is of: a group, or the numbers and letters that follow."""
        grouped = self.next() in ("(", "{")
        value = self.power()
        while not grouped and re.fullmatch(r"[a-hj-zA-Z]|\\pi", self.next()):
            value *= self.power()
        operator, after = (*self.tokens[:2], "", "")[:2]
        if not grouped and operator in _TIMES and after[1:] not in _FUNCTIONS:
            raise UnknownError  # \sin 3 \cdot x
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
            raise UnknownError
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
                raise UnknownError
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
            if self.next() != "\\frac" or not token.isdigit():
                return _number(token)
            part = self.atom()  # of a mixed number, or a product
            if not (part.is_Rational and 0 < part < 1):
                raise UnknownError
            return _number(token) + part
        if token == "\\frac":
            top, bottom = self.argument(), self.argument()
            if bottom == 0:
                raise UnknownError
            return top / bottom
        if token == "\\sqrt":
            degree = self.group("[", "]") if self.next() == "[" else 2
            inside = self.argument()
            if inside.is_number:
                return sympy.real_root(inside, degree)
            return inside ** (1 / sympy.S(degree))
        if token[1:] in _FUNCTIONS and token[0] == "\\":
            return _FUNCTIONS[token[1:]](self.applied())
        if token in _CONSTANTS:
            return _CONSTANTS[token]
        if token.isalpha() and len(token) == 1 and token.isascii():
            if self.next() == "_":
                self.take()
                token += f"_{self.argument()}"
            return sympy.Symbol(token, positive=True)
        raise UnknownError


def split(text: str, separators: str) -> list[str]:
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
        UnknownError: it is beyond this grammar.
    """
    return _shape(_plain(text))


def _shape(text: str) -> Value:
    words = re.fullmatch(r"\\text ?\{([^{}]*)\}", text)
    if words and not re.search(r"\d", text):
        return Value("words", ("".join(re.findall("[a-z]+", words[1].lower())),))
    if based := _BASED.fullmatch(text):
        return Value("based", based.groups())
    if matrix := re.fullmatch(r"\\begin ?\{[pb]matrix\}(.*)\\end ?\{[pb]matrix\}", text):
        rows = (split(row, "&") for row in re.split(r"\\\\", matrix[1]) if row.strip())
        return Value("matrix", tuple(Value("tuple", tuple(map(_shape, row))) for row in rows))
    if cases := _CASES.fullmatch(text):
        return Value("cases", tuple(map(_branch, re.split(r"\\\\", cases[1]))))
    if "\\begin" in text or not text:
        raise UnknownError
    if condition := _CONDITION.fullmatch(text):
        value = _shape(condition["head"].strip(" ,"))
        return replace(value, condition=re.sub(r"[{} ]", "", condition["condition"]))
    if member := re.fullmatch(r"[a-z] ?\\in(?![a-z]) ?(?P<set>.*)", text):
        return _shape(member["set"])
    for separator in (r"\\cup(?![a-z])", ",|;|\\\\text ?\\{ ?(?:and|or) ?\\}"):
        pieces = split(text, separator)
        if len(pieces) > 1:
            return Value("list", _members(map(_shape, pieces)))
    if len(parts := split(text, _RELATION)) > 1:
        return _relation(parts, [_OPERATORS[sign] for sign in re.findall(_RELATION, text)])
    terms = split(text, ":")
    if len(terms) > 1:
        return Value("ratio", tuple(_Grammar(term).whole() for term in terms))
    sides = split(text, "=")
    if len(sides) == 2:
        return Value("equation", (_Grammar(sides[0]).whole() - _Grammar(sides[1]).whole(),))
    if re.search(r"\\(?:pm|mp)(?![a-z])", text):
        if text.count("\\pm") > 1 or "\\mp" in text:
            raise UnknownError
        return Value("list", tuple(_shape(text.replace("\\pm", sign)) for sign in "+-"))
    return _bracketed(text) or _scalar(text)


def _members(values: Iterable[Value]) -> tuple[Any, ...]:
    return tuple(i for v in values for i in (v.items if v.kind == "list" else (v,)))


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
    low, high = (Value("scalar", (end,)) for end in (-sympy.oo, sympy.oo))
    if letters == [False, True]:
        return Value("interval", (brackets[0][0] + ")", scalars[0], high))
    if letters == [True, False]:
        return Value("interval", ("(" + brackets[0][1], low, scalars[1]))
    if len(values) != 2:
        raise UnknownError
    return Value("relation", (operators[0], values[0] - values[1]))


def _bracketed(text: str) -> Value | None:
    if text.startswith("\\{") and text.endswith("\\}"):
        return _shape(text[2:-2].strip())
    if text[0] in "([" and text[-1] in ")]":
        pieces = split(text[1:-1], ",")
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
    if (difference := sympy.expand(left - right)) == 0:
        return True
    for at in (sympy.Rational(17, 7), sympy.Rational(5, 11)):
        symbols = sorted(left.free_symbols | right.free_symbols, key=str)
        point = {symbol: at + 3 * index for index, symbol in enumerate(symbols)}
        size = abs(sympy.N(left.subs(point), _DIGITS)) + 1
        if abs(sympy.N(difference.subs(point), _DIGITS)) > size * sympy.Float(10) ** -20:
            return False
    if sympy.simplify(difference) == 0:
        return True
    raise UnknownError


def same(left: Value, right: Value) -> bool:
    """Whether two texts are worth the same.

    Raises:
        UnknownError: that is not for this oracle to say.
    """
    kinds = {left.kind, right.kind}
    if len(kinds) == 2:
        pair, interval = (left, right) if left.kind == "tuple" else (right, left)
        if kinds == {"tuple", "interval"} and interval.items[0] == "()":
            return same(pair, replace(interval, kind="tuple", items=interval.items[1:]))
        if kinds in ({"tuple", "interval"}, {"scalar", "list"}, {"scalar", "tuple"}):
            return False
        raise UnknownError
    if left.condition and right.condition and left.condition != right.condition:
        if left.condition[0] == right.condition[0]:
            return False
        raise UnknownError
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
