"""Numbers that are near enough: what a benchmark allows beyond exact comparison."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from vespo_openrlhf.reward.reading.normalize import normalize
from vespo_openrlhf.reward.reading.quantity import Quantity, parse_quantity

_NEAR_ZERO = Fraction(1, 10**8)
_SHARE_NEAR_ZERO = Fraction(1, 100)


def within(golds: Sequence[str], answer: str, relative: float, absolute: float = 0.0) -> bool:
    """Whether an answer is one number, and near to one of the golds.

    Near is at most `relative` times the gold, or `absolute`, or 1e-8 but no more than 1 % of the
    gold. With `relative` 1e-5 that is the rule of Minerva's appendix (arXiv 2206.14858), which
    takes numpy's ``isclose`` and, for what that calls 0, 1 %. OlympiadBench's own judge takes an
    absolute error of each problem's.

    Units are converted where both have one; a percentage is near only to a percentage. What is
    not written as one number (a root, a list) is left to exact comparison.
    """
    read = parse_quantity(normalize(answer))
    numbers = (parse_quantity(normalize(gold)) for gold in golds)
    return read is not None and any(
        gold is not None and _near(gold, read, relative, absolute) for gold in numbers
    )


def _near(gold: Quantity, answer: Quantity, relative: float, absolute: float) -> bool:
    if gold.base or answer.base or gold.percent != answer.percent:
        return False
    value, other = gold.value, answer.value
    if gold.unit is not None and answer.unit is not None:
        if gold.unit[0] != answer.unit[0]:
            return False
        other = other * answer.unit[1] / gold.unit[1]
    size = abs(value)
    room = max(
        Fraction(str(relative)) * size,
        Fraction(str(absolute)),
        min(_NEAR_ZERO, _SHARE_NEAR_ZERO * size),
    )
    return abs(other - value) <= room
