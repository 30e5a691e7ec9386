"""A shape as another that it may stand for: a tuple as a column, intervals as all but points."""

from __future__ import annotations

import re
from dataclasses import replace
from string import ascii_lowercase

from vespo_openrlhf.reward.comparing.expression import Expression
from vespo_openrlhf.reward.reading.normalize import compact
from vespo_openrlhf.reward.reading.quantity import parse_quantity


def as_column(node: Expression) -> Expression:
    """A tuple as the column vector that it may stand for."""
    if node.kind != "tuple":
        return node
    return Expression(
        "matrix", "", tuple(Expression("tuple", item.text, (item,)) for item in node.items)
    )


def by_name(node: Expression) -> Expression:
    """``y = 2, x = 1`` in the order of its names, where these follow one another."""
    names = [item.name for item in node.items]
    if node.kind != "list" or len(names) < 2 or "".join(sorted(names)) not in ascii_lowercase:
        return node
    return replace(node, items=tuple(sorted(node.items, key=lambda item: item.name)))


def as_except(node: Expression, trusted: bool) -> Expression:
    """Open intervals that leave out points, as all but those; a gold's points are in order."""
    ends = [item.items for item in node.items if item.kind in ("interval", "tuple")]
    if node.kind != "union" or any(len(pair) != 2 for pair in ends) or len(ends) < 2:
        return node
    ends.sort(key=lambda pair: (pair[0].text != "-\\infty") + (pair[1].text == "\\infty"))
    closed = any(i.kind == "interval" and i.detail != "()" for i in node.items)
    points = [pair[1] for pair in ends[:-1]]
    numbers = [n.value for p in points if (n := parse_quantity(p.text)) is not None]
    in_order = len(points) == 1 or (
        sorted(set(numbers)) == numbers if len(numbers) == len(points) else trusted
    )
    joined = [compact(p.text) for p in points] == [compact(pair[0].text) for pair in ends[1:]]
    whole = (ends[0][0].text, ends[-1][1].text.lstrip("+")) == ("-\\infty", "\\infty")
    if closed or len(ends) != len(node.items) or not (in_order and joined and whole):
        return node
    return Expression("except", node.text, tuple(points))


def tells_apart(node: Expression) -> bool:
    """Whether the members of a list each have a name or a unit of their own."""
    tags: list[object] = []
    for item in node.items:
        quantity = parse_quantity(item.text) if item.kind == "scalar" else None
        name = re.sub(r"_.*", "", name_key(item.name)) if item.kind == "named" else None
        tags.append(name or (quantity.unit if quantity else None))
    return len(tags) > 1 and None not in tags and len(set(tags)) == len(tags)


def is_row(node: Expression) -> bool:
    """Whether the order of a list counts: tosses H, T, H; 5%, 3, of which only one is a share."""
    texts = [bare(item.text) for item in node.items]
    if len({*texts}) < len(texts) and all(re.fullmatch("[A-Z]", text) for text in texts):
        return True
    marked = {re.search("[%°]$", text) is None for text in texts}
    return len(marked) > 1 and all(item.kind == "scalar" for item in node.items)


def bare(text: str) -> str:
    return re.sub(r"\\text|[{}\s]", "", text)


def name_key(name: str) -> str:
    return bare(name).lower()
