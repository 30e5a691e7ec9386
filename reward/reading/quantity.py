r"""Exact numbers with what may stand around them: units, currency, degrees, percent, a base.

``parse_quantity`` reads a normalised answer that is one number (an integer, a decimal, a
fraction, a mixed number, ``8.7\cdot 10^8``, ``52_8``) without evaluating anything, and
``same_quantity`` compares two exactly. Both run in the caller: most answers end here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from vespo_openrlhf.reward.reading.normalize import CURRENCY

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
    rf"|(?P<number>{_NUMBER})"
    rf")"
)
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

# unit: (dimension, factor to the dimension's own unit)
_UNIT_GROUPS: dict[str, dict[str, tuple[str, ...]]] = {
    "length": {
        "1": ("m", "meter", "metre"), "1/1000": ("mm", "millimeter", "millimetre"),
        "1/100": ("cm", "centimeter", "centimetre"), "1/10": ("dm", "decimeter", "decimetre"),
        "1000": ("km", "kilometer", "kilometre"), "254/10000": ("in", "inch", "inche"),
        "3048/10000": ("ft", "foot", "feet"), "9144/10000": ("yd", "yard"),
        "1609344/1000": ("mi", "mile"),
    },
    "mass": {
        "1": ("g", "gram"), "1000": ("kg", "kilogram"), "1/1000": ("mg", "milligram"),
        "45359237/100000": ("lb", "pound"), "45359237/1600000": ("oz", "ounce"),
    },
    "time": {
        "1": ("s", "sec", "second"), "60": ("min", "minute"), "3600": ("h", "hr", "hour"),
        "86400": ("day",), "604800": ("week",), "1/1000": ("ms",),
    },
    "calendar": {"1": ("month",), "12": ("year", "yr")},
    "volume": {"1": ("l", "L", "liter", "litre"), "1/1000": ("ml", "mL", "milliliter")},
    "dollar": {"1": ("dollar", "usd", "USD", "buck", CURRENCY), "1/100": ("cent", "¢")},
    "euro": {"1": ("euro", "€", "eur", "EUR")},
    "sterling": {"1": ("£", "gbp", "GBP")},
    "rupee": {"1": ("₹", "rupee", "Rs", "rs", "Rs.")},
    "yen": {"1": ("¥", "yen", "yuan")},
    "angle": {"1": ("°", "degree", "deg")},
    "radian": {"1": ("radian", "rad")},
    "speed": {"1": ("mph",), "10000/16093.44": ("kph", "kmh")},
    "temperature": {"1": ("°C", "°F", "K")},
    "power": {"1": ("W", "watt")}, "energy": {"1": ("J", "joule")}, "force": {"1": ("N", "newton")},
}  # fmt: skip
UNITS: dict[str, tuple[str, Fraction]] = {}
for _dimension, _factors in _UNIT_GROUPS.items():
    for _factor, _names in _factors.items():
        _top, _, _bottom = _factor.partition("/")
        for _name in _names:
            UNITS[_name] = (_dimension, Fraction(_top) / Fraction(_bottom or 1))

_TEXT_OPEN = re.compile(r"\\text ?\{")
_NOT_UNITS = frozenset(
    "and or not if otherwise except to through from no none minus plus times over divided by with "
    "without is are than less more at least most about approximately between unless for all any "
    "where when infinity base mod modulo equals squared cubed choose but maybe undefined factorial "
    "negative am pm below above under beyond before after opposite half halves quarter dozen "
    "zero one two three four five six seven eight nine ten eleven twelve twenty thirty forty "
    "fifty sixty seventy eighty ninety hundred thousand million billion trillion third fourth "
    "fifth sixth seventh eighth ninth tenth eleventh twelfth fifteenth sixteenth twentieth "
    "thirtieth fortieth fiftieth sixtieth hundredth thousandth millionth billionth".split()
)
_VARIABLE = re.compile("[b-z]")
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
        value: the exact value; in the base's digits if ``base`` is set.
        percent: a percent sign stands after it.
        unit: ((dimension, exponent), ...) and the factor to it; None without a known unit.
        base: (digits, base) of a number written in a base other than ten.
        decimals: digits after the point, where it is written as a decimal; else -1.
        digits: significant digits of such a decimal.
    """

    value: Fraction
    percent: bool = False
    unit: tuple[tuple[tuple[str, int], ...], Fraction] | None = None
    base: tuple[str, int] | None = None
    decimals: int = -1
    digits: int = 0

    @property
    def plain(self) -> bool:
        """A number with nothing around it."""
        return not self.percent and self.unit is None and self.base is None


def _fraction(text: str, sign: str = "") -> Fraction:
    return Fraction((sign if sign == "-" else "") + text.rstrip("."))


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


def read_unit(text: str) -> tuple[tuple[tuple[str, int], ...], Fraction] | str | None:
    """A known unit; "other" for words that may be dropped; None if it is neither."""
    words = _TEXT_OPEN.sub(" ", text.replace("\\cdot", " ")).replace("}", " } ").replace("{", " { ")
    words = re.sub(r"\^ ?\{ ?(-?\d) ?\}", r"^\1", words).replace("{", " ").replace("}", " ")
    words = re.sub(r" ?\^ ?", "^", " ".join(words.split()))
    if len(words) > 60:
        return None
    if words == "times":  # with nothing after it, a count
        return "other"
    dims: dict[str, int] = {}
    factor, sign, pending, last = Fraction(1), 1, 1, ""
    known = True
    for token in re.findall(
        rf"\^-?\d|/|° ?[CF](?![a-z])|°|[€£₹¥¢{CURRENCY}]|[A-Za-z]+\.?|\S", words
    ):
        if token[0] == "^":
            if not last or not token[-1].isdigit():
                return None
            power = int(token[1:])
            factor *= UNITS[last][1] ** (sign * (power - 1)) if last in UNITS else 1
            if last in UNITS:
                dims[UNITS[last][0]] += sign * (power - 1)
            continue
        if token in ("/", "per", "a", "an", "each", "every") and (token == "/" or dims):
            sign = -1
            continue
        word = token.rstrip(".").replace("° ", "°") if len(token) > 1 else token
        lower = word.lower()
        if lower in ("square", "sq", "cubic", "cu"):
            pending = 2 if lower.startswith("s") else 3
            continue
        if lower in ("squared", "cubed") and last in UNITS:
            power = 2 if lower == "squared" else 3
            dims[UNITS[last][0]] += sign * (power - 1)
            factor *= UNITS[last][1] ** (sign * (power - 1))
            continue
        name = next(
            (
                n
                for n in (word, lower, lower.removesuffix("s"))
                if n in UNITS and (len(n) > 1 or n == word)
            ),
            None,
        )
        if name is None:
            if not word.isalpha() or {lower, lower.removesuffix("s")} & _NOT_UNITS:
                return None
            if _VARIABLE.fullmatch(word):
                return None
            known, last = False, "-"
            continue
        dimension, scale = UNITS[name]
        if dimension == "temperature":
            scale = Fraction(1)
            dimension += name
        dims[dimension] = dims.get(dimension, 0) + sign * pending
        factor *= scale ** (sign * pending)
        last, pending = name, 1
    if not known or pending != 1:
        return "other" if len(words.split()) <= 5 else None
    if "°" in words and dims.get("angle") and len(dims) > 1:
        return "other"
    return tuple(sorted((d, e) for d, e in dims.items() if e)), factor


def _bare_unit(rest: str) -> bool:
    """Whether letters after a number are a unit: "5 m", "5cm", "5 apples"; not "5m", "3R^2"."""
    if not rest.lstrip()[:1].isascii():
        return True  # a counter or unit of another script: 7元
    match = re.match(r"( ?)([A-Za-z]+)(.?)", rest)
    if match is None:
        return False
    space, word, after = match.groups()
    if len(word) == 1:
        return bool(space) and word in UNITS and after in ("", "^", "/")
    name = word if word in UNITS else word.lower().removesuffix("s")
    if name in UNITS or word.lower() in UNITS:
        return True
    return bool(space) and len(word) > 3 and after in ("", " ", ".")


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
    try:
        value = Fraction(
            int(groups.get("sign", "") + digits if groups.get("sign") else digits, base)
        )
    except ValueError:
        value = Fraction(0)  # not a number of that base; its digits are still compared
        return Quantity(value, base=(digits, base))
    if base == 10:
        return Quantity(value)
    return Quantity(value, base=((groups.get("sign") or "") + digits.lstrip("0"), base))


def parse_quantity(text: str) -> Quantity | None:
    """Read a normalised answer as one number, or None if it is not one, or too long."""
    if len(text) > MAX_DIGITS:
        return None
    if "_" in text or "base" in text:
        return _based(text)
    text = _UNIT_FRACTION.sub(r"\\text{\1/\2\3}", text)
    unit: tuple[tuple[tuple[str, int], ...], Fraction] | str | None = None
    currency = _PREFIX_CURRENCY.match(text)
    if currency:
        name = currency.group(2) or currency.group(3)
        unit = ((UNITS[name][0], 1),), UNITS[name][1]
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
    percent = False
    if rest:
        stripped = rest.strip()
        if number is None and stripped[:1].isdigit():
            return None
        scale = _SCALE.match(stripped)
        if scale:
            for name in [scale.group(2)] if scale.group(2) else scale.group(3):
                value *= _SCALES[name]
            text_open = scale.group(1) is not None
            stripped = stripped[scale.end() :].strip()
            stripped = ("\\text{" + stripped) if text_open and stripped != "}" else stripped
            if text_open and stripped.startswith("}"):
                stripped = stripped[1:].strip()
        if stripped.startswith("%") or re.fullmatch(
            r"\\text ?\{ ?per ?cent\}|per ?cent|pct", stripped
        ):
            percent = True
            if stripped.startswith("%") and stripped != "%":
                return None
        elif stripped:
            letters = stripped[:1].isalpha()
            if letters and not _bare_unit(rest):
                return None
            if currency and re.fullmatch(r"/ ?[A-Za-z]{2,}", stripped):
                stripped = "each" + stripped.replace("/", " ")  # $18/day
            if stripped[0] in "/^" or (stripped[0] == "\\" and not stripped.startswith("\\text")):
                return None
            read = read_unit(stripped)
            if read is None or (unit is not None and read != "other" and read != unit):
                return None
            unit = read if unit is None else unit
    return Quantity(
        value,
        percent=percent,
        unit=None if isinstance(unit, str) else unit,
        decimals=decimals,
        digits=len(re.sub(r"\D", "", number).lstrip("0")) if number and decimals >= 0 else 0,
    )


def same_quantity(gold: Quantity, answer: Quantity) -> bool:
    """Whether two numbers are the same, exactly.

    Units, currency and degree signs may stand on one side only; where both have a unit they
    must measure the same, and are converted. ``p%`` is p or p/100 against a bare number.
    Bases must agree, digits and base.
    """
    if gold.base or answer.base:
        return gold.base == answer.base
    if gold.percent != answer.percent:
        percent, other = (gold, answer) if gold.percent else (answer, gold)
        if other.unit is not None:
            return False
        return other.value in (percent.value, percent.value / 100)
    if gold.unit is not None and answer.unit is not None:
        return (
            gold.unit[0] == answer.unit[0]
            and gold.value * gold.unit[1] == answer.value * answer.unit[1]
        )
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
