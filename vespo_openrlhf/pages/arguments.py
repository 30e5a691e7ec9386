"""What reports are given: folders, which have short names on the page, and one file to write."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def report_parser(
    prog: str, description: str, examples: str, folder: str
) -> argparse.ArgumentParser:
    """Takes `folders` and `--out`, and shows its texts as they are.

    Args:
        prog: how it is called.
        description: before the options.
        examples: after them.
        folder: what one of the folders is.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help=folder)
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="what to write (default: report.html in the first folder)",
    )
    return parser


def distinct_names(folders: Sequence[Path]) -> list[str]:
    """The end of each folder's path, as long as it takes to tell it from the others.

    A name that all of them end in says nothing and is left out: runs/a/run and runs/b/run are
    a and b.

    Raises:
        ValueError: two are the same folder.
    """
    parts = [folder.resolve().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise ValueError("a folder is given twice: give each one once")
    if len(parts) > 1:
        while all(len(p) > 1 for p in parts) and len({p[-1] for p in parts}) == 1:
            parts = [p[:-1] for p in parts]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different paths have different names")
