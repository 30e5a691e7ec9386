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

# What a unit measures, the factor to the first unit of its kind, its names; + takes prefixes. What
# measures a product is written as one, so that J is N m and mph a speed. A library's table (pint,
# sympy.physics.units) has a thousand more, most of them letters that are variables here, yet no
# currencies, and a year as days; it would have to be cut and added to, at the price of an import.
_UNIT_TABLE = """
+ m             1               m meter metre
  m             0.0254          in inch inche
  m             0.3048          ft foot feet
  m             0.9144          yd yard
  m             1609.344        mi mile
+ g             1               g gram
  g             1e6             ton tonne
  g             453.59237       lb pound
  g             28.349523125    oz ounce
+ s             1               s sec second
  s             60              min minute
  s             3600            h hr hour
  s             86400           day
  s             604800          week
  month         1               month
  month         12              year yr
  month         120             decade
  month         1200            century centurie
+ m^3           0.001           l L liter litre
  m^3           0.003785411784  gallon gal
  m^3           946352946e-12   quart
  m^3           473176473e-12   pint
  m^3           2365882365e-13  cup
  m^2           10000           hectare
  m^2           4046.8564224    acre
  m/s           0.44704         mph
  m/s           1/3.6           kph kmh
+ g*m/s^2       1000            N newton
+ g*m^2/s^2     1000            J joule
  g*m^2/s^2     36e8            kWh
+ g*m^2/s^2     4184            cal calorie
+ g*m^2/s^2     1.602176634e-16 eV
+ g*m^2/s^3     1000            W watt
+ g/m/s^2       1000            Pa pascal
  g/m/s^2       101325000       atm
+ 1/s           1               Hz hertz
+ A             1               A amp ampere
+ A*s           1               coulomb
+ V             1               V volt
+ ohm           1               Ω ohm
+ mol           1               mol mole
+ bit           1               bit
+ bit           8               byte
  dollar        1               dollar usd USD buck $
  dollar        0.01            cent ¢ penny pennie
  dollar        0.05            nickel
  dollar        0.1             dime
  euro          1               euro € eur EUR
  sterling      1               £ gbp GBP
  rupee         1               ₹ rupee Rs rs
  yen           1               ¥ yen yuan
  angle         1               ° degree deg
  angle         360             revolution
  radian        1               radian rad
  celsius       1               °C celsius
  fahrenheit    1               °F fahrenheit
  kelvin        1               K kelvin
"""
_PREFIXES = {"k": 3, "M": 6, "G": 9, "m": -3, "n": -9, "μ": -6, "kilo": 3, "mega": 6, "giga": 9,
             "centi": -2, "milli": -3, "micro": -6, "nano": -9}  # fmt: skip
_SHORT_PREFIXED = {f"{p}{u}": (u, e) for p, e in (("c", -2), ("d", -1)) for u in "mglL"}
_TIGHT = frozenset("mm cm dm km in ft yd mi kg mg lb oz hr yr ms ml mL rs".split())


@dataclass(frozen=True)
class Unit:
    """What stands after a number.

    Attributes:
        measures: ((dimension, exponent), ...) of the units that are known.
        factor: from them to the first unit of their kind.
        words: other words, in the singular: of what it is so many, in which direction.
    """

    measures: tuple[tuple[str, int], ...] = ()
    factor: Fraction = Fraction(1)
    words: frozenset[str] = frozenset()

    def agrees(self, other: Unit) -> bool:
        """Whether both may stand after one number: they measure the same, and of the same."""
        if self.measures and other.measures and self.measures != other.measures:
            return False
        if (self.measures and not other.measures and other.words) or (
            other.measures and not self.measures and self.words
        ):
            return False
        return self.words <= other.words or other.words <= self.words


def _read_table() -> dict[str, Unit]:
    units: dict[str, Unit] = {}
    for line in _UNIT_TABLE.strip("\n").splitlines():
        prefixed, (measures, factor_text, *names) = line[0] == "+", line[2:].split()
        dims: dict[str, int] = {}
        for sign, name, power in re.findall(r"([*/]?)([^*/^]+)(?:\^(\d))?", measures):
            dims[name] = int(power or 1) * (-1 if sign == "/" else 1)
        dims.pop("1", None)
        top, _, bottom = factor_text.partition("/")
        unit = Unit(tuple(sorted(dims.items())), Fraction(top) / Fraction(bottom or 1))
        for name in names:
            units[name.replace("$", CURRENCY)] = unit
            for prefix, power in _PREFIXES.items() if prefixed else ():
                units[prefix + name] = Unit(unit.measures, unit.factor * Fraction(10) ** power)
    for name, (base, power) in _SHORT_PREFIXED.items():
        units[name] = Unit(units[base].measures, units[base].factor * Fraction(10) ** power)
    return units


UNITS = _read_table()
_TEXT_OPEN = re.compile(r"\\text ?\{")
_NOT_UNITS = frozenset(
    "and or not if otherwise except to through from no none minus plus times over divided by with "
    "without is are than less more at least most about approximately between unless for all any "
    "where when infinity base mod modulo equals squared cubed choose but maybe undefined factorial "
    "negative am pm below above under beyond before after opposite repeating recurring "
    "lakh crore bn mn grand gross googol ppm ppb permille basis bps doubled halved tripled "
    "quadrupled inverse reciprocal wrong false incorrect true".split()
)
_NUMBER_WORD = re.compile(
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twel(?:ve|f)|third|fif|eigh|nin"
    r"|(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)t(?:y|ie)"
    r"|hundred|thousand|[a-z]{1,9}illion|[a-z]{2,9}fold|half|halve|quarter|dozen)(?:th)?s?"
)
# What says nothing of what is counted.
_NEUTRAL = frozenset("unit total in of the a an each every per different possible distinct old "
                     "altogether way only long such".split())  # fmt: skip
_PLURALS = {"people": "person", "children": "child", "men": "man", "women": "woman"}
_CELSIUS = re.compile(r"(?:degrees?|°) ?(celsius|fahrenheit)", re.IGNORECASE)
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
        unit: what stands after it, if anything does.
        base: (digits, base) of a number written in a base other than ten.
        decimals: digits after the point, where it is written as a decimal; else -1.
        digits: significant digits of such a decimal.
    """

    value: Fraction
    percent: bool = False
    unit: Unit | None = None
    base: tuple[str, int] | None = None
    decimals: int = -1
    digits: int = 0

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


def read_unit(text: str) -> Unit | None:
    """The unit and the words that a text after a number consists of; None if it is neither."""
    words = _TEXT_OPEN.sub(" ", text.replace("\\cdot", " ")).replace("}", " } ").replace("{", " { ")
    words = words.replace("\\Omega", "Ω").replace("\\mu ", "μ").replace("µ", "μ")
    words = re.sub(r"\^ ?\{ ?(-?\d) ?\}", r"^\1", words).replace("{", " ").replace("}", " ")
    words = _CELSIUS.sub(r"\1", re.sub(r" ?\^ ?", "^", " ".join(words.split())))
    if len(words) > 60:
        return None
    if words == "times":  # with nothing after it, a count
        return Unit()
    dims: dict[str, int] = {}
    others: list[str] = []
    factor, sign, pending, last = Fraction(1), 1, 1, ""

    def take(name: str, power: int) -> None:
        nonlocal factor
        for dimension, exponent in UNITS[name].measures:
            dims[dimension] = dims.get(dimension, 0) + exponent * power
        factor *= UNITS[name].factor ** power

    tokens = re.findall(rf"\^-?\d|/|° ?[CF](?![a-z])|°|[€£₹¥¢{CURRENCY}]|[A-Za-zΩμ]+\.?|\S", words)
    for index, token in enumerate(tokens):
        if token[0] == "^":
            if not last or not token[-1].isdigit() or token[-1] == "0":
                return None
            if last in UNITS:
                take(last, sign * (int(token[1:]) - 1))
            continue
        if token in ("/", "per", "a", "an", "each", "every") and (
            token in ("/", "per") or dims or others
        ):
            sign, last = -1, ""
            continue
        word = token.rstrip(".").replace("° ", "°") if len(token) > 1 else token
        lower = word.lower()
        if lower in ("square", "sq", "cubic", "cu"):
            pending = 2 if lower.startswith("s") else 3
            continue
        if lower in ("squared", "cubed") and last in UNITS:
            take(last, sign * (1 if lower == "squared" else 2))
            continue
        name = next(
            (
                n
                for n in (word, lower, lower.removesuffix("s"))
                if n in UNITS and (len(n) > 1 or n == word)
            ),
            None,
        )
        if lower == "in" and "".join(tokens[index + 1 : index + 2]).isalpha():
            continue  # in total
        if name is None:
            if not word.isalpha() or _VARIABLE.fullmatch(word):
                return None
            if {lower, lower.removesuffix("s")} & _NOT_UNITS or _NUMBER_WORD.fullmatch(lower):
                return None
            if pending == 1 or lower.removesuffix("s") != "unit":
                others.append(_singular(lower))
            last, pending = "-", 1
            continue
        take(name, sign * pending)
        last, pending = name, 1
    if others and len(words.split()) > 5:
        return None
    if "°" in words and dims.get("angle") and len(dims) > 1:
        return Unit()
    measures = tuple(sorted((d, e) for d, e in dims.items() if e))
    if dims and not measures:  # km/m
        return None
    return Unit(measures, factor, frozenset(others) - _NEUTRAL)


def _singular(word: str) -> str:
    if word in _PLURALS:
        return _PLURALS[word]
    word = re.sub(r"ies$", "y", word) if len(word) > 4 else word
    return re.sub(r"(x|[cs]h|ss)es$", r"\1", word).removesuffix("s")


def same_unit(gold: str, answer: str) -> bool:
    """Whether what stands after one expression may stand after the other for the same value."""
    left, right = read_unit(gold), read_unit(answer)
    if left is None or right is None:
        return True
    return left.agrees(right) and (
        left.factor == right.factor or not left.measures or not right.measures
    )


def _bare_unit(rest: str) -> bool:
    """Whether letters after a number are a unit: "5 m", "5cm", "5 apples"; not "5m", "3R^2"."""
    if not rest.lstrip()[:1].isascii():
        return True  # a counter or unit of another script: 7元
    match = re.match(r"( ?)([A-Za-z]+)(.?)", rest)
    if match is None:
        return False
    space, word, after = match.groups()
    if len(word) == 1:
        return bool(space) and word in "mgshlLNJWK" and after in ("", "^", "/")
    names = (word, word.lower(), word.lower().removesuffix("s"))
    if name := next((n for n in names if n in UNITS), ""):
        return bool(space) or len(name) > 2 or name in _TIGHT
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
        if per_cent := _PER_CENT.match(stripped):
            percent, after = True, stripped[per_cent.end() :].strip()
            after = (
                f"\\text{{{after}" if per_cent.group(1) and after[:1] not in ("}", "") else after
            )
            if after not in ("", "}"):
                if not after.startswith("\\text"):  # what TeX comments out
                    return None
                unit = read_unit(after)
                if unit is None or unit.measures:
                    return None
        elif stripped:
            letters = stripped[:1].isalpha()
            if letters and not _bare_unit(rest):
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
