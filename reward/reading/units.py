"""Units of measure and words after a number: what they measure, and whether two agree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from vespo_openrlhf.reward.reading.normalize import CURRENCY

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
# Of thousands and millions, or kelvin: 5K is not 5.
SHORTHAND = re.compile(r"(?:\\text ?\{ ?)?([kKMBT]) ?\}?")
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
    "negative am pm below above under beyond before after opposite repeating recurring rep "
    "periodic lakh crore bn mn grand gross score googol ppm ppb permille basis bps doubled halved "
    "tripled quadrupled inverse reciprocal wrong false incorrect true".split()
)
_NUMBER_WORD = re.compile(
    r"(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twel(?:ve|f)|third|fif|eigh|nin"
    r"|(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)t(?:y|ie)"
    r"|hundred|thousand|[a-z]{1,9}illion|[a-z]{2,9}fold|half|halve|quarter|dozen)(?:th)?s?"
)
# What says nothing of what is counted.
_NEUTRAL = frozenset("unit total in of the a an each every per different possible distinct old "
                     "altogether way only long such whole full extra additional us american "
                     "consecutive".split())  # fmt: skip
_SAME_WORD = {"people": "person", "children": "child", "men": "man", "women": "woman",
              "anticlockwise": "counterclockwise"}  # fmt: skip
_CELSIUS = re.compile(r"(?:degrees?|°) ?(celsius|fahrenheit)", re.IGNORECASE)
_DIRECTION = re.compile(
    r"(north|south|east|west|[NSEW]) of (?:the )?(?=north|south|east|west|[NSEW])"
)
# light-years, units to the left
_JOINT = re.compile(r"(?<=[a-z])-(?=[a-z])|\bto the (?=left|right|north|south|east|west)")
_VARIABLE = re.compile("[b-z]")


def read_unit(text: str) -> Unit | None:
    """The unit and the words that a text after a number consists of; None if it is neither."""
    words = _TEXT_OPEN.sub(" ", text.replace("\\cdot", " ")).replace("}", " } ").replace("{", " { ")
    words = (
        words.replace("\\Omega", "Ω")
        .replace("\\mu ", "μ")
        .replace("µ", "μ")
        .replace("mm Hg", "mmHg")
    )
    words = re.sub(r"\^ ?\{ ?(-?\d) ?\}", r"^\1", words).replace("{", " ").replace("}", " ")
    words = _CELSIUS.sub(r"\1", re.sub(r" ?\^ ?", "^", " ".join(words.split())))
    words = _DIRECTION.sub(r"\1of", _JOINT.sub(" ", words))
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
        name = _name(word)
        if lower == "in" and "".join(tokens[index + 1 : index + 2]).isalpha():
            continue  # in total
        if not name or (word in ("N", "S", "E", "W") and "°" in words):
            if not word.isalpha() or _VARIABLE.fullmatch(word):
                return None
            if {lower, lower.removesuffix("s")} & _NOT_UNITS or _NUMBER_WORD.fullmatch(lower):
                return None
            if pending == 1 or lower.removesuffix("s") != "unit":
                others.append(lower if lower in _NEUTRAL else _singular(lower))
            last, pending = "-", 1
            continue
        if last == "-" and others and others[-1] not in _NEUTRAL:  # light years are no years
            others[-1] += name
            continue
        take(name, sign * pending)
        last, pending = name, 1
    if others and len(words.split()) > 5:
        return None
    measures = tuple(sorted((d, e) for d, e in dims.items() if e))
    if dims and not measures:  # km/m
        return None
    return Unit(measures, factor, frozenset(others) - _NEUTRAL)


def _name(word: str) -> str:
    """The name in the table of a word, which may be a plural or in capitals; empty without one."""
    lower = word.lower()
    names = (word, lower, lower.removesuffix("s"))
    return next((n for n in names if n in UNITS and (len(n) > 1 or n == word)), "")


def _singular(word: str) -> str:
    if word in _SAME_WORD:
        return _SAME_WORD[word]
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


def bare_unit(rest: str) -> bool:
    """Whether letters after a number are a unit: "5 m", "5cm", "5 apples"; not "5m", "3R^2"."""
    if not rest.lstrip()[:1].isascii():
        return True  # a counter or unit of another script: 7元
    match = re.match(r"( ?)([A-Za-z]+)(.?)", rest)
    if match is None:
        return False
    space, word, after = match.groups()
    if len(word) == 1:
        return bool(space) and word in "mgshlLNJWK" and after in ("", "^", "/")
    if name := _name(word):
        return bool(space) or len(name) > 2 or name in _TIGHT
    return bool(space) and len(word) > 3 and after in ("", " ", ".")
