"""The command line that reports share: folders in, one file out."""

from __future__ import annotations

import argparse
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
