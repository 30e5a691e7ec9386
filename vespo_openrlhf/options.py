"""A field of an options dataclass, described once: its flag's default, its help, what it refuses.

Standard library alone, for losses, scheduling and reward.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import operator
import types
import typing
from collections.abc import Callable, Collection, Mapping
from numbers import Integral, Real
from typing import Any

_KINDS: dict[Any, tuple[type, str]] = {
    bool: (bool, "true or false"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "text"),
    Mapping: (Mapping, "an object, from names to text"),
}
_BOUNDS: dict[str, Callable[[Any, float], bool]] = {
    "at least": operator.ge,
    "above": operator.gt,
    "at most": operator.le,
    "below": operator.lt,
}


def option(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    factory: Callable[[], Any] | Any = dataclasses.MISSING,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    choices: Collection[str] = (),
    because: str = "",
) -> Any:
    """A field of a dataclass of `Options`.

    Args:
        default: left out, the field must be given, or `factory` makes its value.
        help: what it is for, and its unit: its flag's line in `--help`.
        at_least, above, at_most, below: bounds of a number; below `math.inf` it is finite.
        choices: the values of a string, beside its default; a Literal type lists them itself.
        because: why there are bounds, for the message.
    """
    limits = {"at least": at_least, "above": above, "at most": at_most, "below": below}
    bounds = {words: limit for words, limit in limits.items() if limit is not None}
    metadata = {"help": help, "choices": choices, "bounds": bounds, "because": because}
    return dataclasses.field(default=default, default_factory=factory, metadata=metadata)


class Options:
    """Base of a dataclass whose fields are held to their types and to what `option` says of them.

    Raises:
        ValueError: a field is not; the message begins with its name.
    """

    def __post_init__(self) -> None:
        kind: type = type(self)
        for field, hint, choices in fields(kind):
            value, must = getattr(self, field.name), f"{field.name} must be"
            if hint not in _KINDS or (value is None and field.default is None):
                continue
            of_kind, in_words = _KINDS[hint]
            if not isinstance(value, of_kind) or isinstance(value, bool) != (hint is bool):
                raise ValueError(f"{must} {in_words}, not {value!r}")
            if choices and value not in (*choices, field.default):
                raise ValueError(f"{must} one of {', '.join(choices)}, not {value!r}")
            bounds = field.metadata.get("bounds", {})
            if not all(_BOUNDS[words](value, limit) for words, limit in bounds.items()):
                because = field.metadata["because"]
                raise ValueError(
                    f"{must} {_shown(bounds)}, not {value}{because and ': ' + because}"
                )


def _shown(bounds: Mapping[str, float]) -> str:
    return " and ".join(
        "finite" if limit == math.inf else f"{words} {limit:g}" for words, limit in bounds.items()
    )


@functools.cache
def fields(options: type) -> list[tuple[dataclasses.Field[Any], Any, Collection[str]]]:
    """The fields of a dataclass, each with its type, without None and without the arguments of a
    Mapping or Literal, and with the values that a string may have."""
    hints = typing.get_type_hints(options)
    found = []
    for field in dataclasses.fields(options):
        hint, choices = hints[field.name], field.metadata.get("choices", ())
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            (hint,) = (member for member in typing.get_args(hint) if member is not type(None))
        if typing.get_origin(hint) is typing.Literal:
            choices = typing.get_args(hint)
            hint = type(choices[0])
        if typing.get_origin(hint) is Mapping:
            hint = Mapping
        found.append((field, hint, choices))
    return found


def split_options(text: str) -> tuple[str, dict[str, Any]]:
    """NAME,OPTION=VALUE,... as it is written on a command line; a value that is no JSON is text.

    Raises:
        ValueError: an option without a value.
    """
    name, *parts = text.split(",")
    options: dict[str, Any] = {}
    for part in parts:
        option, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{text}: write {option}=VALUE after the comma")
        try:
            options[option] = json.loads(value)
        except json.JSONDecodeError:
            options[option] = value
    return name, options
