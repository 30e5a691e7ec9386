r"""Exact numbers with what may stand around them: units, currency, degrees, percent, a base.

``parse_quantity`` reads a normalised answer that is one number (an integer, a decimal, a
fraction, a mixed number, ``8.7\cdot 10^8``, ``52_8``) without evaluating anything, and
``same_quantity`` compares two exactly. Both run in the caller: most answers end here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from vespo_openrlhf.reward.reading.normalize import CURRENCY
from vespo_openrlhf.reward.reading.units import SHORTHAND, UNITS, Unit, bare_unit, read_unit

MAX_DIGITS = 2_000
FULL_DIGITS = 15  # a decimal of so many digits, rightly rounded, is the number
_MAX_EXPONENT = 2_000

_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_VALUE = re.compile(
    rf"(?P<sign>[-+]?) ?(?:"
    rf"(?P<whole>\d+) ?(?:\\frac ?\{{ ?(?P<mn>\d+) ?\}} ?\{{ ?(?P<md>\d+) ?\}}"
    rf"|(?<=\d) (?P<mn2>\d+) ?/ ?(?P<md2>\d+))"
    rf"|\\frac ?\{{ ?(?P<ns>[-+]?) ?(?P<n>{_NUMBER}) ?\}}"
    rf" ?\{{ ?(?P<ds>[-+]?) ?(?P<d>{_NUMBER}) ?\}}"
    rf"|\(? ?(?P<n2>{_NUMBER}) ?\)? ?/ ?\(? ?(?P<ds2>[-+]?)(?P<d2>{_NUMBER}) ?\)?(?![\d/])"
    rf"|(?P<m>{_NUMBER}) ?\\cdot ?10 ?\^ ?(?:\{{ ?(?P<e>[-+]? ?\d+) ?\}}|(?P<e2>\d))"
    rf"|(?P<m2>{_NUMBER})[eE](?P<e3>[-+]?\d+)"
    rf"|10 ?\^ ?(?:\{{ ?(?P<e4>-? ?\d+) ?\}}|(?P<e5>\d))"
    rf"|(?P<r>\d*)\.(?P<r2>\d{{0,30}})\\overline ?\{{ ?(?P<r3>\d{{1,30}}) ?\}}"
    rf"|(?P<number>{_NUMBER})"
    rf")"
)
_PER_CENT = re.compile(r"%|(\\text ?\{ ?)?(?:per ?cent|pct)(?![a-z])")
_EACH = re.compile(r"(?:\\text ?\{ ?)?((?:/|per|an?|each) ?[A-Za-z]{2,}) ?\}?")
_COMMAND_UNIT = re.compile(r"\\(?:text|Omega|mu ?(?:\\text ?\{ ?)?(?:m|g|s|l|L|A|V|F)(?![a-z]))")
_BASED = re.compile(
    r"(?P<sign>-?)\(? ?(?:\\text\{)?(?P<digits>[0-9A-Za-z]+)\}? ?\)?"
    r" ?_ ?(?:\{ ?(?P<base>[^{}]{1,20}|\\text ?\{[^{}]{1,20}\} ?\d{0,2}) ?\}"
    r"|(?P<base2>\d|\\text ?\{[^{}]{1,20}\}))"
)
_BASE_WORDS = re.compile(
    r"(?P<digits>[0-9A-Z]+) ?\(?(?:\\text ?\{)? ?\(?(?:in )?base\}?[ -]?(?P<base>\w+)\)?\}?\)?"
)
_BASES = {
    "two": 2, "binary": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "octal": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "sixteen": 16, "hex": 16,
}  # fmt: skip
_SCALES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12,
    "十": 10, "百": 100, "千": 1000, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8,
}  # fmt: skip
# A kilogram is 千克, and a metre 米.
_SCALE = re.compile(
    r"(\\text ?\{ ?)?(?:(hundred|thousand|million|billion|trillion)\b"
    r"|((?:[十百千](?![克米瓦卡升分])|[万萬亿億])+))"
)

_UNIT_FRACTION = re.compile(
    r"\\frac ?\{ ?\\text ?\{([^{}]*)\} ?\} ?\{ ?\\text ?\{([^{}]*)\} ?(\^ ?\{? ?\d ?\}?)? ?\}"
)
_PREFIX_CURRENCY = re.compile(
    rf"([-+]?) ?(?:(?:US ?)?([{CURRENCY}€£₹¥])|(?:\\text ?\{{)? ?(Rs|USD)\.? ?\}}?) ?"
)


@dataclass(frozen=True)
class Quantity:
    """A number and what stands around it.

    Attributes:
        value: the exact value; 0 if ``base`` is set, whose digits are compared.
        percent: a percent sign stands after it.
        unit: what stands after it, if anything does.
        base: (digits, base) of a number written in a base other than ten.
        decimals: digits after the point, where it is written as a decimal; else -1.
        digits: significant digits of such a decimal.
        shorthand: the letter after it that may be a factor: the M of ``5\\text{M}``.
    """

    value: Fraction
    percent: bool = False
    unit: Unit | None = None
    base: tuple[str, int] | None = None
    decimals: int = -1
    digits: int = 0
    shorthand: str = ""

    @property
    def plain(self) -> bool:
        """A number with nothing around it."""
        return not self.percent and self.unit is None and self.base is None


def _fraction(text: str, sign: str = "") -> Fraction:
    return Fraction((sign if sign == "-" else "") + text.rstrip("."))


def repeating(whole: str, head: str, tail: str) -> Fraction:
    """The value of a decimal whose last digits repeat: 0.1666... has the head 1, the tail 6."""
    bottom = int("9" * len(tail) + "0" * len(head))
    return Fraction(int(whole + head + tail) - int((whole + head) or "0"), bottom)


def _read_value(match: re.Match[str]) -> Fraction | None:
    group = match.groupdict()
    negative = group["sign"] == "-"
    if group["whole"] is not None:
        bottom = int(group["md"] or group["md2"])
        if not bottom:
            return None
        value = int(group["whole"]) + Fraction(int(group["mn"] or group["mn2"]), bottom)
    elif group["n"] is not None or group["n2"] is not None:
        bottom_value = _fraction(group["d"] or group["d2"], group["ds"] or group["ds2"] or "")
        if not bottom_value:
            return None
        value = _fraction(group["n"] or group["n2"], group["ns"] or "") / bottom_value
    elif group["r3"] is not None:
        value = repeating(group["r"], group["r2"], group["r3"])
    elif group["number"] is not None:
        value = _fraction(group["number"])
    else:
        mantissa = group["m"] or group["m2"] or "1"
        exponent_text = next(group[k] for k in ("e", "e2", "e3", "e4", "e5") if group[k])
        exponent_text = exponent_text.replace(" ", "")
        if len(exponent_text) > 6 or abs(int(exponent_text)) > _MAX_EXPONENT:
            return None
        value = _fraction(mantissa) * Fraction(10) ** int(exponent_text)
    return -value if negative else value


def _based(text: str) -> Quantity | None:
    match = _BASED.fullmatch(text) or _BASE_WORDS.fullmatch(text)
    if match is None:
        return None
    groups = match.groupdict()
    name = groups.get("base") or groups.get("base2") or ""
    name = re.sub(r"\\text ?|[{}()]|base|\s", "", name).lower()
    base = int(name) if name.isdigit() and len(name) < 3 else _BASES.get(name, 0)
    digits = groups["digits"].upper()
    if not 2 <= base <= 36 or len(digits) > MAX_DIGITS:
        return None
    if not digits.isdigit() and base <= 10:
        return None
    sign = groups.get("sign") or ""
    if base == 10:
        return Quantity(Fraction(int(sign + digits)))
    return Quantity(Fraction(0), base=(sign + digits.lstrip("0"), base))


def _after(text: str, word: re.Match[str]) -> str:
    """What follows a word, in the text group that it opened, if it did."""
    return re.sub(r"^\\text ?\{\s*\}", "", (word[1] or "") + text[word.end() :]).strip()


def parse_quantity(text: str) -> Quantity | None:
    """Read a normalised answer as one number, or None if it is not one, or too long."""
    if len(text) > MAX_DIGITS:
        return None
    if "_" in text or "base" in text:
        return _based(text)
    text = _UNIT_FRACTION.sub(r"\\text{\1/\2\3}", text)
    unit: Unit | None = None
    currency = _PREFIX_CURRENCY.match(text)
    if currency:
        name = currency.group(2) or currency.group(3)
        unit = UNITS[name]
        text = currency.group(1) + text[currency.end() :]
    while text.startswith("(") and text.endswith(")") and text.count("(") == 1:
        text = text[1:-1].strip()
    match = _VALUE.match(text)
    if match is None:
        return None
    value = _read_value(match)
    if value is None:
        return None
    number = match.group("number")
    decimals = len(number.partition(".")[2]) if number and "." in number else -1
    rest = text[match.end() :]
    percent, shorthand = False, SHORTHAND.fullmatch(rest.strip())
    if rest:
        stripped = rest.strip()
        if number is None and stripped[:1].isdigit():
            return None
        scale = _SCALE.match(stripped)
        if scale:
            for name in [scale.group(2)] if scale.group(2) else scale.group(3):
                value *= _SCALES[name]
            stripped = _after(stripped, scale)
        if per_cent := _PER_CENT.match(stripped):
            percent, after = True, _after(stripped, per_cent)
            if after:
                if not after.startswith("\\text"):  # what TeX comments out
                    return None
                unit = read_unit(after)
                if unit is None or unit.measures:
                    return None
        elif stripped:
            if stripped[0].isalpha() and not bare_unit(rest):
                return None
            if currency and (each := _EACH.fullmatch(stripped)):  # $18/day
                unit, stripped = None, f"\\text{{{currency[2] or currency[3]} {each[1]}}}"
            stripped = stripped.replace("\\text{k}\\Omega", "\\text{kΩ}")
            if stripped[0] in "/^" or (stripped[0] == "\\" and not _COMMAND_UNIT.match(stripped)):
                return None
            read = read_unit(stripped)
            if read is None or (unit is not None and not unit.agrees(read)):
                return None
            if unit is not None and read.factor != unit.factor and read.measures:
                return None
            unit = read if unit is None else replace(unit, words=read.words)
    return Quantity(
        value,
        percent=percent,
        shorthand=shorthand[1] if shorthand else "",
        unit=unit if unit and (unit.measures or unit.words) else None,
        decimals=decimals,
        digits=len(re.sub(r"\D", "", number).lstrip("0")) if number and decimals >= 0 else 0,
    )


_PART = re.compile(r"\d+(?:\.\d+)? ?(?:\\text ?\{[^{}]{1,40}\}|[A-Za-z]{1,20}(?![A-Za-z])) ?")


def parse_parts(text: str) -> list[Quantity] | None:
    r"""Read ``3\text{ feet }4\text{ inches}``, which is no product; None if it is not one."""
    parts = _PART.findall(text)
    if len(parts) < 2 or "".join(parts) != text:
        return None
    read = [parse_quantity(part.strip()) for part in parts]
    found = [quantity for quantity in read if quantity is not None and quantity.unit is not None]
    return found if len(found) == len(parts) else None


def same_parts(gold: list[Quantity], answer: list[Quantity]) -> bool:
    """Whether the parts are together as much, where they measure one thing; else one by one."""
    units = [quantity.unit for quantity in (*gold, *answer) if quantity.unit is not None]
    if all(unit.measures and unit.agrees(units[0]) for unit in units):
        left, right = (
            sum(q.value * q.unit.factor for q in parts if q.unit) for parts in (gold, answer)
        )
        return left == right
    return len(gold) == len(answer) and all(map(same_quantity, gold, answer))


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Whether two numbers are the same, exactly.

    Units, currency and degree signs may stand on one side only; where both have a unit they
    must measure the same, and are converted. ``p%`` is p or p/100 against a bare number.
    Bases must agree, digits and base.
    """
    if gold.base or answer.base:
        return gold.base == answer.base
    if gold.shorthand != answer.shorthand and None in (gold.unit, answer.unit):
        return False
    if gold.percent != answer.percent:
        percent, other = (gold, answer) if gold.percent else (answer, gold)
        if other.unit is not None and other.unit.measures:
            return False
        if other.unit and percent.unit and not other.unit.agrees(percent.unit):
            return False
        return other.value in (percent.value, percent.value / 100)
    if gold.unit is not None and answer.unit is not None:
        if not gold.unit.agrees(answer.unit):
            return False
        if gold.unit.measures and answer.unit.measures:
            return gold.value * gold.unit.factor == answer.value * answer.unit.factor
    return gold.value == answer.value or _rounded(gold, answer) or _rounded(answer, gold)


def _rounded(exact: Quantity, decimal: Quantity) -> bool:
    """Whether a decimal of double precision or more is a fraction, rightly rounded."""
    if exact.decimals >= 0 or decimal.digits < FULL_DIGITS:
        return False
    error = rounding_error(exact.value, decimal.decimals, ends=_ends(exact.value))
    return abs(exact.value - decimal.value) <= error


def rounding_error(value: Fraction, decimals: int, *, ends: bool) -> Fraction:
    """How far a decimal may be from a value that it is the rounding of: half a last digit.

    Where the value's own decimals do not end, half of a double's last bit as well: what a program
    prints is the nearest double, whose last digit need not be the value's.
    """
    digit = Fraction(1, 2 * 10 ** max(decimals, 0))
    return digit if ends else max(digit, abs(value) / 2**53)


def _ends(value: Fraction) -> bool:
    """Whether a fraction has finitely many decimals."""
    bottom = value.denominator
    for prime in (2, 5):
        while bottom % prime == 0:
            bottom //= prime
    return bottom == 1
