"""Sets of reals: intervals, their unions, all but some points."""

from __future__ import annotations

from collections.abc import Iterable

from vespo_openrlhf.reward.comparing.expression import Expression
from vespo_openrlhf.reward.reading.quantity import parse_quantity


def infinite(sign: str) -> Expression:
    return Expression("scalar", sign + "\\infty")


def interval(left: Expression, right: Expression, brackets: str, name: str = "") -> Expression:
    text = f"{brackets[0]}{left.text},{right.text}{brackets[1]}"
    return Expression("interval", text, (left, right), name, brackets)


def all_but(excluded: Iterable[Expression], name: str = "") -> Expression:
    groups = (n.items if n.kind in ("list", "except") else (n,) for n in excluded)
    items = tuple(item for group in groups for item in group)
    return Expression("except", "except " + ",".join(i.text for i in items), items, name)


def union(parts: Iterable[Expression]) -> Expression:
    items = tuple(parts)
    return Expression("union", "\\cup".join(item.text for item in items), items)


def without(whole: Expression, excluded: Expression) -> Expression | None:
    """The reals, or an interval, without points or an interval; None if it is neither."""
    points = excluded.items if excluded.kind in ("set", "list") else (excluded,)
    if (whole.kind, whole.detail) == ("interval", "()"):  # else a pair, until it is without
        if excluded.kind == "tuple" and len(points := excluded.items) == 2:
            excluded = interval(points[0], points[1], "()")
        if excluded.kind != "interval":
            return all_but(points)
        low, high = excluded.items
        ends = {"[": ")", "(": "]", "]": "(", ")": "["}
        left = interval(infinite("-"), low, "(" + ends[excluded.detail[0]])
        right = interval(high, infinite(""), ends[excluded.detail[1]] + ")")
        return union((left, right))
    if whole.kind == "tuple" and len(whole.items) == 2:
        whole = interval(*whole.items, "()")
    if whole.kind != "interval" or any(point.kind != "scalar" for point in points):
        return None
    numbers = {point.text: parse_quantity(point.text) for point in points}
    if len(points) > 1 and None in numbers.values():
        return None
    inner = sorted(points, key=lambda p: q.value if (q := numbers[p.text]) else 0)
    edges = [whole.items[0], *inner, whole.items[1]]
    brackets = whole.detail[0] + ")(" * len(inner) + whole.detail[1]
    return union(
        interval(edges[i], edges[i + 1], brackets[2 * i : 2 * i + 2]) for i in range(len(edges) - 1)
    )


def inequalities(text: str, items: list[Expression], joints: set[str]) -> Expression:
    """Inequalities in a row: one interval where both hold, a union where either does."""
    low = next((item for item in items if item.items[1].text == "\\infty"), None)
    high = next((item for item in items if item.items[0].text == "-\\infty"), None)
    several, either = len({item.name for item in items}) > 1, bool(joints & {"or", "lor"})
    if len(items) == 2 and low and high and not several and not either:
        left, right = parse_quantity(low.items[0].text), parse_quantity(high.items[1].text)
        if left is None or right is None or left.value < right.value:
            brackets = low.detail[0] + high.detail[1]
            return interval(low.items[0], high.items[1], brackets, low.name)
    return Expression("union", text, tuple(items), detail="and" * (several and not either))
