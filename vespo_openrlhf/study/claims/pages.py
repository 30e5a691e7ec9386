"""The study's pages, filled in from the runs beside them.

    python -m vespo_openrlhf.study claims docs/study

writes each table between its markers and draws the figures; tests/unit/study/test_claims.py holds
the pages to it.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vespo_openrlhf.files import write_text
from vespo_openrlhf.study.claims import grids, primary, tuned

#: Page -> name of a marker -> what belongs there, from the folder of them all.
PAGES: Mapping[str, Callable[[Path], Mapping[str, str]]] = {
    "README.md": primary.tables,
    "primary.md": primary.all_contrasts,
    "tuned.md": tuned.tables,
    "grid.md": grids.tables,
}
#: Figure -> what draws it, from the folder of them all, into a path.
FIGURES: Mapping[Path, Callable[[Path, Path], None]] = {
    Path("primary", "finals.svg"): primary.draw,
    Path("paper", "staleness.svg"): grids.draw,
}

_MARKED = re.compile(r"(<!-- claims: ([\w-]+) -->\n).*?(<!-- /claims -->)", re.S)


def fill(page: str, made: Mapping[str, str]) -> str:
    """The page with each table between its markers.

    Raises:
        ValueError: a table without its markers, or markers without a table.
    """
    marked = [name for _, name, _ in _MARKED.findall(page)]
    if sorted(marked) != sorted(made):
        raise ValueError(f"the page has markers for {marked}, and there are {list(made)}")
    return _MARKED.sub(lambda match: f"{match[1]}{made[match[2]]}{match[3]}", page)


def remade(folder: Path, page: str) -> str:
    """One of the PAGES as its runs make it.

    Raises:
        ValueError: see `fill`, and the tables of the page; OSError: there is no such page.
    """
    text = (folder / page).read_text(encoding="utf-8")
    try:
        return fill(text, PAGES[page](folder))
    except ValueError as error:
        raise ValueError(f"{page}: {error}") from error


def main(arguments: Sequence[str]) -> int:
    """Write the tables into the pages, and draw the figures.

    Returns:
        0, or 2 with the reason on standard error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m vespo_openrlhf.study claims",
        description=f"Work the tables of {', '.join(PAGES)} in DIR out from the runs in its "
        "folders, and draw the figures.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="docs/study")
    folder = parser.parse_args(arguments).folder
    try:
        filled = {page: remade(folder, page) for page in PAGES}
        for page, text in filled.items():
            write_text(folder / page, text)
        for figure, draw in FIGURES.items():
            draw(folder, folder / figure)
    except (OSError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 2
    return 0
