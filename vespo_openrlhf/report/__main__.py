"""`python -m vespo_openrlhf.report RUN_DIR`: a training run as one HTML page."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

DESCRIPTION = """\
Write one self-contained HTML page about a training run: reward, accuracy, length, entropy, lag,
importance weights, effective sample size, idle shares, throughput, samples, settings, versions.
Several run folders are shown side by side, with the settings that differ marked. The page opens
without a network, on a phone as well, and can be sent to others as it is.
"""
EXAMPLES = """\
examples:
  python -m vespo_openrlhf.report runs/qwen3                # writes runs/qwen3/report.html
  python -m vespo_openrlhf.report runs/vespo runs/grpo --out compared.html

A run that still goes on can be looked at too.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the page; returns the exit status: 0, or 2 for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m vespo_openrlhf.report",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="the --run.dir of a training run"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default: report.html in the first run folder)",
    )
    options = parser.parse_args(argv)
    out = options.out or options.run_dirs[0] / "report.html"
    from .page import write_report

    try:
        write_report(options.run_dirs, out)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
