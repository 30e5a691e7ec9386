"""A field described once: what it holds a value to, and that the message says it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest

from vespo_openrlhf.options import Options, option


@dataclass(frozen=True)
class Some(Options):
    """One of each kind."""

    number: float = option(0.5, above=0, below=1)
    rate: float | None = option(None, at_least=0, below=math.inf, because="it is a rate")
    free: float = 0.0
    count: int = option(2, "how many", at_least=1, at_most=8)
    flag: bool = False
    mode: Literal["soft", "hard"] = "soft"
    language: str = option("", choices=("en", "zh"))
    pairs: Mapping[str, str] = option(factory=dict)
    anything: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"number": 1}, "number must be above 0 and below 1, not 1"),
        ({"number": math.nan}, "number must be above 0 and below 1, not nan"),
        ({"number": "1"}, "number must be a number, not '1'"),
        ({"number": None}, "number must be a number, not None"),
        ({"number": True}, "number must be a number, not True"),
        ({"rate": -1.0}, "rate must be at least 0 and finite, not -1.0: it is a rate"),
        ({"rate": math.inf}, "rate must be at least 0 and finite, not inf: it is a rate"),
        ({"count": 0}, "count must be at least 1 and at most 8, not 0"),
        ({"count": 2.0}, "count must be a whole number, not 2.0"),
        ({"flag": 1}, "flag must be true or false, not 1"),
        ({"mode": "firm"}, "mode must be one of soft, hard, not 'firm'"),
        ({"language": "xx"}, "language must be one of en, zh, not 'xx'"),
        ({"pairs": ["a=b"]}, "pairs must be an object, from names to text, not ['a=b']"),
    ],
    ids=str,
)
def test_what_a_field_refuses(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Some(**given)


def test_what_a_field_takes() -> None:
    assert Some().pairs == {}
    Some(np.float32(0.25), 0, math.nan, 8, True, "hard", "zh", {"a": "b"}, (1,))
    Some(rate=None, language="")


def test_a_field_without_a_default_must_be_given() -> None:
    @dataclass(frozen=True)
    class Needed(Options):
        size: int = option(help="groups", at_least=1)

    Needed(1)
    with pytest.raises(TypeError, match="size"):
        Needed()
