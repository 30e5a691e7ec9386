"""`python -m vespo_openrlhf.report RUN_DIR`: a training run as one HTML page."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from vespo_openrlhf.pages import report_parser

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
    parser = report_parser(
        "python -m vespo_openrlhf.report",
        DESCRIPTION,
        EXAMPLES,
        "the --run.dir of a training run",
    )
    options = parser.parse_args(argv)
    out = options.out or options.folders[0] / "report.html"
    from .page import write_report

    try:
        write_report(options.folders, out)
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        return 2
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
