"""What a section is made of: text, tables, settings.

Markup is of the type `Markup`, whose `format` and `join` escape what is not: so text cannot become
HTML by being forgotten. `raw` alone takes HTML.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape


@dataclass(frozen=True)
class Block:
    """A piece of a page.

    Attributes:
        html: well-formed HTML, which the page takes as it is.
        script: JavaScript that the piece needs; a page holds each script once.
        is_figure: whether it may stand beside other figures.
    """

    html: Markup
    script: str = ""
    is_figure: bool = False


def inline(text: object) -> Markup:
    """`text` for HTML, with `backquoted` parts set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def joined(template: str, rows: Iterable[Sequence[object]]) -> Markup:
    """The template, filled in with each row, one behind the other."""
    return Markup().join(Markup(template).format(*row) for row in rows)


def raw(markup: str) -> Block:
    """HTML as it is. Whoever calls this has escaped what came from outside."""
    return Block(Markup(markup))


def paragraph(text: str) -> Block:
    """Text; an empty line starts a new paragraph, `backquotes` set code."""
    parts = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    return Block(joined("<p>{}</p>", ((inline(part),) for part in parts)))


def facts(mapping: Mapping[str, object]) -> Block:
    """Names and their values, one pair a line; a Block is a value too."""
    pairs = ((inline(name), _cell(value)) for name, value in mapping.items())
    inside = joined("<div><dt>{}</dt><dd>{}</dd></div>", pairs)
    return Block(Markup('<dl class="facts">{}</dl>').format(inside))


def tiles(mapping: Mapping[str, tuple[str, str] | str]) -> Block:
    """A few headline numbers: name -> value, or (value, a note under it)."""
    parts = []
    for name, value in mapping.items():
        number, note = value if isinstance(value, tuple) else (value, "")
        parts.append((inline(name), inline(number), optional('<dd class="note">{}</dd>', note)))
    inside = joined("<div><dt>{}</dt><dd>{}</dd>{}</div>", parts)
    return Block(Markup('<dl class="tiles">{}</dl>').format(inside))


def legend(names: Sequence[str], note: str = "") -> Block:
    """The colours and line styles of several runs, in view while the section scrolls.

    Args:
        names: in the order of `figures.line_style`.
        note: said after them.
    """
    items = joined(
        '<li><span class="swatch {}" aria-hidden="true"></span>{}</li>',
        ((_swatch(index), name) for index, name in enumerate(names)),
    )
    template = Markup('<ul class="legend" aria-label="runs">{}{}</ul>')
    return Block(template.format(items, optional("<li>{}</li>", note)))


def _swatch(index: int) -> str:
    dashes = ("solid", "dashed", "dotted")
    return f"swatch-{index % 8} {dashes[index // 8 % len(dashes)]}"


def table(
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    caption: str = "",
    numeric: Collection[int] = (),
) -> Block:
    """A table; the first cell of a row is its heading. It scrolls sideways where it must.

    Args:
        headers: one per column.
        rows: cells: text, numbers (shown as `str` shows them) or Blocks; None is a dash.
        caption: above the table.
        numeric: indices of the columns that are set flush right.
    """
    assert all(len(row) == len(headers) for row in rows)
    # Not a <caption>: that is as wide as its table, and would scroll away with it.
    above = optional('<p class="caption">{}</p>', caption)
    label = caption or ", ".join(headers)
    return Block(
        Markup("<div>{}{}</div>").format(above, _scrolling("scroll", label, headers, rows, numeric))
    )


def _scrolling(
    style: str,
    label: str,
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    numeric: Collection[int] = (),
    row_class: str = "",
) -> Markup:
    right = Markup(' class="number"')
    classes = [right if column in numeric else "" for column in range(len(headers))]
    mark = Markup(' class="{}"').format(row_class) if row_class else ""
    lines = []
    for row in rows:
        first, *rest = zip(classes, map(_cell, row), strict=True)
        heading = joined('<th scope="row"{}>{}</th>', [first])
        lines.append((mark, heading, joined("<td{}>{}</td>", rest)))
    return Markup(
        '<div class="{}" tabindex="0" role="region" aria-label="{}">'
        "<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(
        style,
        label,
        joined('<th scope="col"{}>{}</th>', zip(classes, map(inline, headers), strict=True)),
        joined("<tr{}>{}{}</tr>", lines),
    )


def optional(template: str, text: str) -> Markup:
    """The template around a text, or nothing where there is none."""
    return Markup(template).format(inline(text)) if text else Markup()


def _cell(value: object) -> Markup:
    if isinstance(value, Block):
        return value.html
    return Markup("–") if value is None else inline(value)


def details(summary: str, *blocks: Block) -> Block:
    """Blocks that are shown when the reader asks for them."""
    inside = Markup().join(block.html for block in blocks)
    scripts = "\n".join(dict.fromkeys(block.script for block in blocks if block.script))
    template = Markup("<details><summary>{}</summary>{}</details>")
    return Block(template.format(inline(summary), inside), scripts)


def settings_table(runs: Mapping[str, Mapping[str, Any]], what: str = "settings") -> Block:
    """Settings of one run or more: what differs in sight and marked, what is equal behind a click.

    Args:
        runs: run -> name -> value; nested mappings are flattened to dotted names.
        what: what they are called.
    """
    flat = {run: dict(_flatten(values)) for run, values in runs.items()}
    names = sorted(set().union(*flat.values()))
    shown = {name: [_value(values, name) for values in flat.values()] for name in names}
    different = [name for name in names if len(set(shown[name])) > 1]
    equal = [name for name in names if name not in different]
    if not names:
        return paragraph(f"No {what} are recorded in the run folder.")
    parts = []
    if different:
        columns = {name: shown[name] for name in different}
        parts.append(_named_values(list(flat), columns, "different"))
    if equal:
        title = f"{len(equal)} {what}"
        if len(flat) > 1:
            title = f"{title} that are equal" if different else f"All {title} are equal"
        columns = {name: shown[name][:1] for name in equal}
        parts.append(details(title, _named_values(["value"], columns)))
    return Block(Markup().join(part.html for part in parts))


def _named_values(columns: list[str], rows: Mapping[str, list[str]], row_class: str = "") -> Block:
    lines = [
        [Block(Markup("<code>{}</code>").format(name)), *values] for name, values in rows.items()
    ]
    headers = ["name", *columns]
    return Block(_scrolling("scroll settings", "settings", headers, lines, row_class=row_class))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, value in values.items():
        dotted = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            pairs += _flatten(value, f"{dotted}.")
        else:
            pairs.append((dotted, value))
    return pairs


def _value(values: Mapping[str, Any], name: str) -> str:
    if name not in values:
        return "not set"
    value = values[name]
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
