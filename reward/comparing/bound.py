"""Sums, integrals and limits as written: the same whatever their bound variables are called."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import permutations
from typing import Any

import sympy
from sympy.concrete.expr_with_limits import ExprWithLimits

UNFINISHED = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative)


def _canonical(node: Any, names: dict[Any, str]) -> str:
    """A spelling without the names of bound variables and the order of terms and factors."""
    if node in names:
        return names[node]
    if not node.args:
        counted = {symbol.name: name for symbol, name in names.items()}
        head, _, index = getattr(node, "name", "").partition("_")  # a_k, a_{k+1}
        index = re.sub("[a-zA-Z]", lambda m: counted.get(m.group(), m.group()), index)
        return f"{head}_{index}" if index else str(sympy.srepr(node))
    if isinstance(node, ExprWithLimits):
        limits, body = _nested(node)
        bound = {limit[0] for limit in limits}
        free = not any(end.free_symbols & bound for limit in limits for end in limit[1:])
        if isinstance(node, sympy.Sum) and free and len(limits) in (2, 3):
            return min(_within(node, order, body, names) for order in permutations(limits))
        return _within(node, limits, body, names)
    names, bounds = dict(names), []
    if isinstance(node, sympy.Limit):
        body, variable, *bounds_of = node.args
        bounds = [_canonical(part, names) for part in bounds_of]
        names[variable] = f"#{len(names)}"
        args = [body]
    else:
        args = _flat(node)
    parts = [_canonical(arg, names) for arg in args]
    if isinstance(node, sympy.Add | sympy.Mul):
        parts.sort()
    return f"{type(node).__name__}({';'.join(parts)}|{'|'.join(bounds)})"


def _nested(node: Any) -> tuple[list[Any], Any]:
    """The limits of sums within sums, or integrals, the outermost first, and what is summed."""
    limits: list[Any] = []
    kind, body = node.func, node
    while body.func == kind:
        limits += reversed(body.limits)
        body = body.function
    return limits, body


def _within(node: Any, limits: Iterable[Any], body: Any, names: dict[Any, str]) -> str:
    names, bounds = dict(names), []
    for variable, *ends in limits:
        bounds.append(",".join(_canonical(end, names) for end in ends))
        names[variable] = f"#{len(names)}"
    return f"{type(node).__name__}({_canonical(body, names)}|{'|'.join(bounds)})"


def _flat(node: Any) -> list[Any]:
    """The terms of a sum, or the factors of a product, that the parser leaves nested as written."""
    if not isinstance(node, sympy.Add | sympy.Mul):
        return list(node.args)
    args = [a for arg in node.args for a in (_flat(arg) if arg.func == node.func else [arg])]
    numbers = [arg for arg in args if arg.is_Rational and not arg.args]
    whole = node.func(*numbers)
    return [arg for arg in args if arg not in numbers] + [whole] * (whole != node.identity)


def indexed(value: Any) -> bool:
    """Whether what is summed is counted by its index, as a_k is, and so is no constant."""
    return any(
        limit[0].name in re.findall("[a-zA-Z]", symbol.name.partition("_")[2])
        for node in value.atoms(ExprWithLimits)
        for limit in node.limits
        for symbol in node.function.free_symbols
    )


def abbreviated(value: Any) -> Any:
    """A letter for each sum, integral or limit, the same for those that differ in spelling."""
    if isinstance(value, UNFINISHED):
        return sympy.Symbol(_canonical(value, {}))
    if not value.has(*UNFINISHED):
        return value
    return value.func(*map(abbreviated, value.args))
