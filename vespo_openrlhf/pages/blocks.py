"""What a section is made of: text, tables, settings. Text is escaped; `raw` alone takes HTML."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Block:
    """A piece of a page.

    Attributes:
        html: well-formed HTML, which the page takes as it is.
        script: JavaScript that the piece needs; a page holds each script once.
        is_figure: whether it may stand beside other figures.
    """

    html: str
    script: str = ""
    is_figure: bool = False


def escape(text: object) -> str:
    """`text` for HTML, in an attribute as well."""
    return html.escape(str(text))


def inline(text: object) -> str:
    """`text` for HTML, with `backquoted` parts set as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def raw(markup: str) -> Block:
    """HTML as it is. Whoever calls this has escaped what came from outside."""
    return Block(markup)


def paragraph(text: str) -> Block:
    """Text; an empty line starts a new paragraph, `backquotes` set code."""
    parts = [part for part in re.split(r"\n\s*\n", text) if part.strip()]
    return Block("".join(f"<p>{inline(part)}</p>" for part in parts))


def facts(mapping: Mapping[str, object]) -> Block:
    """Names and their values, one pair a line; a Block is a value too."""
    pairs = (f"<div><dt>{inline(k)}</dt><dd>{_cell(v)}</dd></div>" for k, v in mapping.items())
    return Block(f'<dl class="facts">{"".join(pairs)}</dl>')


def tiles(mapping: Mapping[str, tuple[str, str] | str]) -> Block:
    """A few headline numbers: name -> value, or (value, a note under it)."""
    parts = []
    for name, value in mapping.items():
        number, note = value if isinstance(value, tuple) else (value, "")
        note = f'<dd class="note">{inline(note)}</dd>' if note else ""
        parts.append(f"<div><dt>{inline(name)}</dt><dd>{inline(number)}</dd>{note}</div>")
    return Block(f'<dl class="tiles">{"".join(parts)}</dl>')


def legend(names: Sequence[str], note: str = "") -> Block:
    """The colours and line styles of several runs, in view while the section scrolls.

    Args:
        names: in the order of `figures.line_style`.
        note: said after them.
    """
    items = "".join(
        f'<li><span class="swatch {_swatch(index)}" aria-hidden="true"></span>{escape(name)}</li>'
        for index, name in enumerate(names)
    )
    note = f"<li>{inline(note)}</li>" if note else ""
    return Block(f'<ul class="legend" aria-label="runs">{items}{note}</ul>')


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
    classes = ['class="number"' if column in numeric else "" for column in range(len(headers))]
    head = "".join(
        f'<th scope="col" {c}>{inline(name)}</th>' for c, name in zip(classes, headers, strict=True)
    )
    body = "".join(_row(row, classes) for row in rows)
    # Not a <caption>: that is as wide as its table, and would scroll away with it.
    above = f'<p class="caption">{inline(caption)}</p>' if caption else ""
    label = escape(caption or ", ".join(headers))
    return Block(
        f'<div>{above}<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></div>"
    )


def _row(cells: Sequence[object], classes: Sequence[str], row_class: str = "") -> str:
    first, *rest = (_cell(cell) for cell in cells)
    columns = "".join(f"<td {c}>{cell}</td>" for c, cell in zip(classes[1:], rest, strict=True))
    mark = f' class="{row_class}"' if row_class else ""
    return f'<tr{mark}><th scope="row" {classes[0]}>{first}</th>{columns}</tr>'


def _cell(value: object) -> str:
    if isinstance(value, Block):
        return value.html
    return "–" if value is None else inline(value)


def details(summary: str, *blocks: Block) -> Block:
    """Blocks that are shown when the reader asks for them."""
    inside = "".join(block.html for block in blocks)
    scripts = "\n".join(dict.fromkeys(block.script for block in blocks if block.script))
    return Block(f"<details><summary>{inline(summary)}</summary>{inside}</details>", scripts)


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
    return Block("".join(part.html for part in parts))


def _named_values(columns: list[str], rows: Mapping[str, list[str]], row_class: str = "") -> Block:
    classes = [""] * (len(columns) + 1)
    body = "".join(
        _row([Block(f"<code>{escape(name)}</code>"), *values], classes, row_class)
        for name, values in rows.items()
    )
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in ("name", *columns))
    return Block(
        '<div class="scroll settings" tabindex="0" role="region" aria-label="settings">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


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
