r"""The algebra behind the judge: parsing by math-verify's LaTeX parser, equality exact.

Only the worker processes import this. Numbers are compared as numbers to fifty digits of
*relative* precision, never to a count of decimals, and by their difference where they agree in
those; decimals are read as the fractions they are; expressions with variables are compared at
points of both signs first, and by math-verify's own symbolic equality where points cannot tell.
"""

from __future__ import annotations

import logging
import random
import re
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
from math_verify import verify as math_verify

from vespo_openrlhf.reward.comparing.bound import UNFINISHED, abbreviated, indexed
from vespo_openrlhf.reward.comparing.expression import FLIP, split_top
from vespo_openrlhf.reward.comparing.limits import UnreadableError, check_size
from vespo_openrlhf.reward.comparing.words import choice, split_unit, text_key
from vespo_openrlhf.reward.reading.quantity import (
    FULL_DIGITS,
    parse_quantity,
    repeating,
    rounding_error,
)

logging.getLogger("math_verify").setLevel(logging.ERROR)

_CONVERSION = ConversionConfig(lowercase_symbols=False)
_DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?![\d.])")
_SCIENTIFIC = re.compile(r"(\d)[eE]([-+]?\d{1,4})(?![\d.])")
_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")
_REPEATING = re.compile(r"(?<![\d.])(\d*)\.(\d{0,30})\\overline ?\{ ?(\d{1,30}) ?\}")
_SLASH = re.compile(r"(?<![\w}^)/.] )(?<![\w}^)/.])(\d+) ?/ ?(\d+) +(?=[a-zA-Z\\(])(?!\\cdot)")
_INFINITE = re.compile(r"[-+]?\\infty|.*\\(?:sum|prod|int|lim)[^a-z].*")
_PRIMES = re.compile(r"(?<![a-zA-Z])([a-zA-Z])('+)")
# Of two numbers the parser takes one, or their sum; signs that it does not know it leaves out.
_MISREAD = re.compile(
    r"\\(?:over|atop|above|choose|brack|brace)(?![a-z])"
    r"|\d \d|(?:^|[\d(+^-] ?|(?<!_) )\{[\d.]+\} ?\{[\d.]"
    r"|:|['\u0080-\u00af\u00b1-\ud7ff\uf900-\uffff]"
)
# The parser reads a power of T as a transpose, and leaves it out; and no power of a logarithm.
_TRANSPOSED = re.compile(r"\^ ?(?:T(?! ?_)|\{ ?T ?\})")
_LOG_POWER = re.compile(
    r"(\\(?:ln|log(?: ?_ ?(?:\{[^{}]{1,20}\}|\w))?)) ?\^ ?\{? ?(\d) ?\}? ?"
    r"(\([^()]{1,60}\)|\{[^{}]{1,60}\}|\d+(?:\.\d+)?|\\?[a-zA-Z]+)"
)
# Beside the logarithm that a slash divides it by, a logarithm is of no quotient.
_LOG_BY_LOG = re.compile(r"(\\(?:ln|log) ?(?:\d+|[a-zA-Z])) ?(?=/ ?\\(?:ln|log)(?![a-zA-Z]))")
_DIGITS = 50
_POINTS = 8


def _prepare(text: str) -> str:
    """A normalised scalar in the spelling the parser reads, its decimals as fractions."""
    text = _TEXT.sub(r"\1", text)
    text = _TRANSPOSED.sub("^{(T)}", text)
    text = _LOG_POWER.sub(r"(\1 \3)^{\2}", text)
    text = _LOG_BY_LOG.sub(r"(\1) ", text)
    text = _PRIMES.sub(lambda m: f"{m[1]}_{{{'p' * len(m[2])}}}", text)
    text = _REPEATING.sub(_repeating, text)
    if len(terms := [term for term, _ in split_top(text, "[|:]")]) == 2 and "|" not in text:
        text = f"\\frac{{{terms[0]}}}{{{terms[1]}}}"
    text = _SLASH.sub(r"\\frac{\1}{\2} ", text)
    text = _SCIENTIFIC.sub(r"\1 \\cdot 10^{\2}", text)
    text = _DECIMAL.sub(_decimal, text)
    text = re.sub(r"(\d+(?:\.\d+)?|\})\s*%", r"\1 \\cdot \\frac{1}{100}", text)
    return re.sub(r"(\d+|\\pi|[a-z}])\s*°", r"(\1 \\cdot \\frac{\\pi}{180})", text)


def _decimal(match: re.Match[str]) -> str:
    whole, part = match.groups()
    return f"\\frac{{{(whole + part).lstrip('0') or '0'}}}{{1{'0' * len(part)}}}"


def _repeating(match: re.Match[str]) -> str:
    value = repeating(*match.groups())
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


@lru_cache(maxsize=512)
def expression(text: str) -> Any:
    """The sympy expression of a normalised scalar.

    Raises:
        UnreadableError: it does not parse.
    """
    prepared = _prepare(text)
    if _MISREAD.search(prepared):
        raise UnreadableError("numbers side by side, or a sign that the parser leaves out")
    if "\\infty" in prepared and not _INFINITE.fullmatch(prepared.replace(" ", "")):
        raise UnreadableError("arithmetic with infinity")
    try:
        parsed = latex2sympy(
            prepared, is_real=True, normalization_config=None, conversion_config=_CONVERSION
        )
    except Exception as error:  # the parser raises bare Exception, and much else on odd input
        raise UnreadableError(str(error)[:200]) from error
    if not isinstance(parsed, sympy.Basic | sympy.MatrixBase):
        raise UnreadableError("not an expression")
    imaginary = [s for s in getattr(parsed, "free_symbols", ()) if s.name in ("i", "math{i}")]
    if imaginary:
        parsed = parsed.subs(dict.fromkeys(imaginary, sympy.I))
    if "\\sqrt[" in text.replace(" ", "") and not parsed.has(sympy.I):
        parsed = parsed.replace(_is_odd_root, _real_root)
    if parsed.has(sympy.nan, sympy.zoo):
        raise UnreadableError("not a number")
    return parsed


def _is_odd_root(value: Any) -> bool:
    return bool(value.is_Pow and value.exp.is_Rational and value.exp.q % 2 and value.exp.q > 1)


def _real_root(value: Any) -> Any:
    """An odd root that is real where what it is of is negative, too."""
    base, exponent = value.args
    return sympy.sign(base) ** exponent.p * sympy.Abs(base) ** exponent


def _lost(number: Any) -> bool:
    """Whether a number has no digits left."""
    return any(f._prec < 100 for f in number.atoms(sympy.Float))


def _number(value: Any) -> Any:
    """A number to fifty digits, or None."""
    try:
        result = sympy.N(value, _DIGITS, maxn=400)
        if _lost(result):
            # lost to cancellation, as in sin(pi): zero, if algebra says so
            result = sympy.N(sympy.simplify(value.doit()), _DIGITS, maxn=400)
            if _lost(result) and not value.is_rational:
                return None
    except Exception:
        return None
    if result.is_number and not result.has(sympy.nan, sympy.zoo) and not result.free_symbols:
        return result
    return None


def _apart(left: Any, right: Any) -> bool:
    """Whether two numbers that agree in so many digits differ, as 2^{2019} and 2^{2019} - 1 do."""
    difference = left - right
    if difference.has(sympy.Float):
        return False
    if not difference.has(*UNFINISHED):
        difference = difference.doit()  # the parser leaves 2^{2019} as it is written
    if difference.is_Rational:
        return bool(difference != 0)
    value = sympy.N(difference, _DIGITS, maxn=400)
    return bool(value.is_number and not _lost(value) and value != 0)


def _close(left: Any, right: Any) -> bool | None:
    """Whether two numbers are the same, in all digits that can be had; None if that is unknown."""
    a, b = _number(left), _number(right)
    if a is None or b is None:
        return None
    if a.has(sympy.oo, -sympy.oo) or b.has(sympy.oo, -sympy.oo):
        return bool(a == b)
    try:
        size = max(abs(a), abs(b))
        if size == 0:
            return True
        if abs(a - b) > size * sympy.Float(10, 20) ** -(_DIGITS - 12):
            return False
        return not _apart(left, right)
    except TypeError:
        return None


def _same_case(left: Any, right: Any) -> Any:
    """``right`` with the case of its variables as in ``left``, where that is unambiguous."""
    by_lower = {symbol.name.lower(): symbol for symbol in left.free_symbols}
    names = [symbol.name.lower() for symbol in right.free_symbols]
    if len(by_lower) != len(left.free_symbols) or len(set(names)) != len(names):
        return right
    return right.xreplace({s: by_lower.get(s.name.lower(), s) for s in right.free_symbols})


def _points(symbols: list[Any]) -> list[dict[Any, Any]]:
    """The same points for every comparison: some all positive, the others of either sign."""
    source = random.Random(20240817)
    points = []
    for index in range(_POINTS):
        signs = [1 if index < _POINTS // 2 else source.choice((-1, 1, -1)) for _ in symbols]
        points.append(
            {
                symbol: sign * sympy.Rational(source.randint(101, 997), 211)
                for symbol, sign in zip(symbols, signs, strict=True)
            }
        )
    return points


def _ends(value: Any) -> list[Any]:
    """The bounds of the sums and products of an expression."""
    nodes = value.atoms(sympy.Sum, sympy.Product)
    return [end for node in nodes for limit in node.limits for end in limit[1:]]


def _agree_at_points(left: Any, right: Any) -> bool | None:
    """Whether two expressions agree wherever both are real (or everywhere, if they hold i)."""
    symbols = sorted(left.free_symbols | right.free_symbols, key=lambda s: s.name)
    counted = {
        symbol: sympy.Integer(2 + index % 3)  # how far a sum or product goes
        for index, symbol in enumerate(symbols)
        if any(end.has(symbol) for e in (left, right) for end in _ends(e))
    }
    imaginary = left.has(sympy.I) or right.has(sympy.I)
    agreed = 0
    for point in _points(symbols):
        values = left.subs(point | counted), right.subs(point | counted)
        if counted:
            values = values[0].doit(), values[1].doit()
        if not imaginary and any((n := _number(v)) is not None and n.has(sympy.I) for v in values):
            continue  # outside the domain, as ln x is below zero
        same = _close(*values)
        if same is False:
            return False
        agreed += same is True
    return True if agreed >= _POINTS // 2 else None


def _are_scalars(*values: Any) -> bool:
    return all(isinstance(v, sympy.Expr) and not isinstance(v, sympy.MatrixBase) for v in values)


def equal(gold: str, answer: str) -> bool:
    """Whether two scalars are the same number or expression."""
    decimal = _is_rounding(gold, answer) or _is_rounding(answer, gold)
    if decimal:
        return True
    left, right = expression(gold), expression(answer)
    if left == right:
        return True
    if not _are_scalars(left, right):
        return bool(math_verify(left, right, timeout_seconds=None))
    right = _same_case(left, right)
    if left.has(*UNFINISHED) and right.has(*UNFINISHED):
        short = abbreviated(left), abbreviated(right)
        if short[0] == short[1] or _agree_at_points(*short):
            return True
    if indexed(left) or indexed(right):
        return False
    if not left.free_symbols and not right.free_symbols:
        same = _close(left, right)
        if same is None and not left.has(*UNFINISHED) and not right.has(*UNFINISHED):
            return bool(sympy.simplify(left - right) == 0)  # never by six digits
    else:
        same = _agree_at_points(left, right)
    if same is None:
        return bool(math_verify(left, right, timeout_seconds=None))
    return same


def _is_rounding(exact: str, decimal: str) -> bool:
    """Whether a decimal of fifteen digits or more is another number, rightly rounded."""
    quantity = parse_quantity(decimal)
    if quantity is None or not quantity.plain or quantity.digits < FULL_DIGITS:
        return False
    return rounds(exact, decimal)


def rounds(exact: str, decimal: str) -> bool:
    """Whether a decimal is the rounding of a number to the decimal's own digits."""
    quantity = parse_quantity(decimal)
    if quantity is None or not quantity.plain:
        return False
    parsed = expression(exact)
    value = _number(parsed)
    if value is None or not value.is_real:
        return False
    target = sympy.Rational(quantity.value.numerator, quantity.value.denominator)
    error = rounding_error(quantity.value, quantity.decimals, ends=parsed.is_irrational is not True)
    bound = sympy.Rational(error.numerator, error.denominator)
    return bool(abs(value - target) <= bound * sympy.Rational(1001, 1000))


def _ratio(gold: tuple[str, str], answer: tuple[str, str]) -> Any:
    """The constant c with gold = c * answer for the two left minus right sides, or None."""
    sides = [expression(text) for text in (*gold, *answer)]
    if not _are_scalars(*sides):
        return None
    left = sides[0] - sides[1]
    right = _same_case(left, sides[2] - sides[3])
    symbols = sorted(left.free_symbols | right.free_symbols, key=lambda s: s.name)
    if not left.free_symbols or left.free_symbols != right.free_symbols:
        return None
    ratio = None
    for point in _points(symbols):
        top, bottom = _number(left.subs(point)), _number(right.subs(point))
        if top is None or bottom is None or bottom == 0 or top == 0:
            return None
        if ratio is None:
            ratio = top / bottom
        elif not _close(ratio, top / bottom):
            return None
    return ratio


def algebra(operation: str, *texts: str) -> bool:
    """What :class:`.judge.Judge` asks for.

    Raises:
        UnreadableError: a side does not parse, or is beyond what is evaluated.
    """
    for text in texts:
        check_size(text)
    if operation == "equal":
        return equal(texts[0], texts[1])
    if operation == "rounds":
        return rounds(texts[0], texts[1])
    ratio = _ratio((texts[0], texts[1]), (texts[2], texts[3]))
    if ratio is None:
        return False
    if operation == "equation":
        return True
    gold_operator, answer_operator = texts[4], texts[5]
    if ratio.is_positive:
        return gold_operator == answer_operator
    return ratio.is_negative is True and FLIP.get(gold_operator, gold_operator) == answer_operator


def readable_scalar(text: str) -> bool:
    """Whether a scalar of a gold is a number, words, or mathematics that parses."""
    if parse_quantity(text) is not None or text_key(text) is not None or choice(text) is not None:
        return True
    head = split_unit(text)[0]
    try:
        check_size(head)
        expression(head)
    except UnreadableError:
        return False
    return True


def warm() -> None:
    """Parse and compare a little of everything, so that forked workers start warm."""
    for gold, answer in (
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"), ("x^2+2x+1", "(x+1)^{2}"),
        (r"\sin x + \cos^{2} x", r"2^{10} \log_{2} 8"), (r"11\sqrt{2}", "6-5i"),
        (r"\frac{\pi}{4}", r"3 e^{2x}"), ("p - q", r"\binom{5}{2} + 5!"), ("|x|", "x_1"),
        ("(x-1)(x+1)", "x^2-1"),
    ):  # fmt: skip
        try:
            equal(gold, answer)
        except UnreadableError:
            continue
