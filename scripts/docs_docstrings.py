"""Docstrings as the site wants them: an extension of griffe, which reads them.

`a, b: text` in a docstring describes two parameters at once, and an option's help is its docstring.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

# A line of an Args section for several names, with the lines that go on with it.
_JOINT = re.compile(r"^( +)(\w+(?:, \w+)+):(.*(?:\n\1 +.*)*)", re.MULTILINE)


def apart(docstring: str) -> str:
    """The docstring with an entry for each name of an entry for several."""
    return _JOINT.sub(
        lambda m: "\n".join(f"{m[1]}{name}:{m[3]}" for name in m[2].split(", ")), docstring
    )


class Docstrings(griffe.Extension):
    """See the module."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Griffe has read a module, a class, a function or an attribute."""
        if obj.docstring:
            obj.docstring.value = apart(obj.docstring.value)

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        """Griffe has read an attribute: a field of options, maybe."""
        call = attr.value
        if not isinstance(call, griffe.ExprCall) or str(call.function) != "option":
            return
        by_name = {a.name: a.value for a in call.arguments if isinstance(a, griffe.ExprKeyword)}
        help = by_name.get("help", call.arguments[1] if len(call.arguments) > 1 else None)
        try:
            text = ast.literal_eval(str(help))
        except (ValueError, SyntaxError):  # made as the program runs
            return
        if isinstance(text, str):
            attr.docstring = griffe.Docstring(text, parent=attr)
            first = call.arguments[0]
            attr.value = None if isinstance(first, griffe.ExprKeyword) else first
