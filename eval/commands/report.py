"""`vespo eval report`: evaluations to look at, and to publish."""

from __future__ import annotations

from collections.abc import Sequence

from vespo_openrlhf.files import write_text
from vespo_openrlhf.pages import report_parser

DESCRIPTION = """\
Write one self-contained HTML page about evaluations: accuracy with intervals, pass@k and maj@k,
accuracy against response length, every problem's repeats, generations to leaf through with the
answer that was judged marked, settings and versions. Several folders stand side by side. The page
opens without a network, on a phone as well, and can be sent to others as it is.
"""
EXAMPLES = """\
examples:
  vespo eval report evals/qwen3                     # writes evals/qwen3/report.html
  vespo eval report evals/base evals/vespo --out compared.html
  vespo eval report evals/base evals/vespo --markdown > table.md
"""


def main(argv: Sequence[str]) -> int:
    """`vespo eval report`.

    Returns:
        0.

    Raises:
        ValueError: a folder holds no finished evaluation.
        OSError: the page cannot be written.
    """
    parser = report_parser("vespo eval report", DESCRIPTION, EXAMPLES, "the --out of an evaluation")
    parser.add_argument(
        "--markdown",
        action="store_true",
        help="tables for a paper instead of the page; without --out, in the terminal",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=400,
        metavar="N",
        help="generations to leaf through, of each folder and benchmark (default 400); long "
        "responses lose their middle, so that the page stays at some 20 MB",
    )
    options = parser.parse_args(argv)
    if options.samples < 0:
        raise ValueError(f"--samples must not be negative, got {options.samples}")
    from vespo_openrlhf.eval.report.folders import read_folders

    evaluations = read_folders(options.folders)
    if options.markdown:
        from vespo_openrlhf.eval.report.markdown import tables

        text = tables(evaluations)
        if options.out is None:
            print(text, end="")
            return 0
    else:
        from vespo_openrlhf.eval.report.page import build_page

        text = build_page(evaluations, options.samples).render()
    out = options.out or options.folders[0] / "report.html"
    write_text(out, text, errors="replace")
    print(out)
    return 0
