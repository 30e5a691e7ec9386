"""A page: sections of blocks, written as one HTML file that asks the network for nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib import resources
from itertools import groupby
from pathlib import Path

from markupsafe import Markup

from vespo_openrlhf.files import write_text

from .blocks import Block, joined, optional

_PAGE = Markup("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1>{subtitle}</header>
<nav aria-label="Contents"><ul>{contents}</ul></nav>
<main>
{sections}
</main>
{script}
</body>
</html>
""")


class Page:
    """Collects sections and writes them.

    A content security policy in the page forbids every request and every script but the page's
    own, so text from a model or a data set can do nothing, whatever it holds.

    Args:
        title: the page's heading and its name in the browser.
        subtitle: one line under it.
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self._title = title
        self._subtitle = subtitle
        self._sections: list[tuple[str, str, Markup]] = []
        self._scripts: dict[str, None] = {}

    def section(self, title: str, *blocks: Block, intro: str = "") -> None:
        """Add a section; figures that follow one another share rows where there is room.

        Args:
            title: its heading, and its entry in the contents.
            blocks: what it shows.
            intro: a paragraph before them.
        """
        name = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        taken = [anchor for anchor, _, _ in self._sections]
        anchor = name if name not in taken else f"{name}-{len(taken)}"
        lead = optional('<p class="intro">{}</p>', intro)
        self._sections.append((anchor, title, lead + _arrange(blocks)))
        self._scripts.update(dict.fromkeys(block.script for block in blocks if block.script))

    def render(self) -> str:
        """The HTML text."""
        scripts = "\n".join(self._scripts)
        digest = base64.b64encode(hashlib.sha256(scripts.encode()).digest()).decode()
        allowed = f"'sha256-{digest}'" if scripts else "'none'"
        policy = (
            f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"
        )
        contents = joined(
            '<li><a href="#{}">{}</a></li>',
            ((anchor, title) for anchor, title, _ in self._sections),
        )
        sections = Markup("\n").join(
            Markup(
                '<section id="{0}" aria-labelledby="{0}-title"><h2 id="{0}-title">{1}</h2>{2}'
                "</section>"
            ).format(*section)
            for section in self._sections
        )
        style = resources.files(__package__).joinpath("page.css").read_text(encoding="utf-8")
        page = _PAGE.format(
            policy=Markup(policy),
            title=self._title,
            style=Markup(style),
            subtitle=optional('<p class="subtitle">{}</p>', self._subtitle),
            contents=contents,
            sections=sections,
            script=Markup(f"<script>{scripts}</script>") if scripts else "",
        )
        return str(page)

    def write(self, path: str | Path) -> None:
        """Write the file; its folder is made. What was there before is replaced at once."""
        write_text(Path(path), self.render(), errors="replace")


def _arrange(blocks: Sequence[Block]) -> Markup:
    parts = []
    for are_figures, group in groupby(blocks, key=lambda block: block.is_figure):
        inside = Markup().join(block.html for block in group)
        row = Markup('<div class="figures">{}</div>')
        parts.append(row.format(inside) if are_figures else inside)
    return Markup().join(parts)
