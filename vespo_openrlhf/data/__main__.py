"""`python -m vespo_openrlhf.data prepare NAME`: training prompts from a dataset."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from vespo_openrlhf.data.account import REASONS, Report
from vespo_openrlhf.data.overlap import GRAM, SHARE
from vespo_openrlhf.data.sources import SOURCES

_EPILOG = """examples:
  vespo data prepare gsm8k                                    into data/gsm8k
  vespo data prepare dapo-math-17k --benchmark-data bench/    benchmarks from local files
  vespo data prepare custom --from mine.jsonl --out data/mine
  vespo data prepare math --against exam.jsonl                your own problems kept out, too
  vespo data prepare deepscaler --from train.parquet          prepared by VESPO's published code
  vespo data prepare dapo-math-17k --max-prompt-tokens 1024 --tokenizer Qwen/Qwen3-8B-Base

Exits with 1 where no benchmark could be had, so that nothing was decontaminated.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0; 1 where data were written that could not be checked against any benchmark; 2 for what
        the user can mend.
    """
    arguments = _parser().parse_args(argv)
    out = arguments.out or Path("data") / arguments.name
    from vespo_openrlhf.data.prepare import Options, prepare

    try:
        report = prepare(
            Options(
                source=arguments.name,
                out=out,
                files=tuple(arguments.files),
                benchmark_data=arguments.benchmark_data,
                against=tuple(arguments.against),
                template=arguments.template,
                validation=arguments.validation,
                max_prompt_tokens=arguments.max_prompt_tokens,
                tokenizer=arguments.tokenizer,
                gram=arguments.ngram,
                overlap=arguments.overlap,
            )
        )
    except (ValueError, OSError) as error:
        print(f"python -m vespo_openrlhf.data: error: {error}", file=sys.stderr)
        return 2
    _show(report, out)
    if not report.decontaminated:
        print(
            "error: NO benchmark was there to check against, so nothing was decontaminated; the "
            "data are written all the same",
            file=sys.stderr,
        )
        return 1
    return 0


def _show(report: Report, out: Path) -> None:
    print(f"{report.read:>9,} rows read from {report.origin}")
    for name, count in report.dropped.items():
        if count:
            print(f"{-count:>9,} {REASONS[name]}")
    for name, found in report.contaminated.items():
        print(f"{'':>9}   {name}: {found['exact']} exact, {found['overlap']} overlapping")
    for name, rows in report.splits.items():
        print(f"{rows:>9,} rows in {out / f'{name}.parquet'}")
    checked = ", ".join(report.checked) or "none"
    print(f"checked against the benchmarks: {checked}")
    if report.not_checked:
        print(
            f"\nWARNING: NOT CHECKED for contamination, {len(report.not_checked)} benchmarks that "
            "were not available:",
            file=sys.stderr,
        )
        for name, reason in report.not_checked.items():
            print(f"  {name}: {reason}", file=sys.stderr)
        print(
            "Give their files with --benchmark-data, or run this where the hub can be reached.",
            file=sys.stderr,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m vespo_openrlhf.data",
        description="Prepare training prompts: deduplicated, decontaminated against the benchmarks "
        "of `vespo eval`, golds audited with the verifier, in fixed splits.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser(
        "prepare",
        help="make Parquet files and a data card from a dataset",
        description="Writes train.parquet and validation.parquet with the columns prompt, label "
        "and source, a data card (README.md), manifest.json, and dropped.jsonl with what was left "
        "out and why.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    prepare.add_argument(
        "name",
        choices=list(SOURCES),
        help="the dataset; custom is your own, with columns problem, question or prompt, and "
        "answer, label, gold or reward_model.ground_truth (as verl has it)",
        metavar="|".join(SOURCES),
    )
    prepare.add_argument(
        "--from",
        dest="files",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help=".parquet, .jsonl, .json or .csv files of the dataset, instead of the hub",
    )
    prepare.add_argument("--out", type=Path, help="folder for the result (default: data/NAME)")
    prepare.add_argument(
        "--benchmark-data",
        type=Path,
        metavar="DIR",
        help="folder with the benchmarks' files, such as math500.jsonl; the hub has the others",
    )
    prepare.add_argument(
        "--against",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="problems of your own to keep out as well: .jsonl, .csv or .parquet with columns "
        "problem and answer, or a benchmark's .yaml, as `vespo eval run --benchmarks` takes them",
    )
    prepare.add_argument(
        "--template",
        default="",
        help="what is put around each problem: a prompt template of `vespo eval`, or a text "
        "with {problem} in it (default: qwen, which asks for a boxed answer; plain for "
        "arithmetic). An instruction that stands in the data already is taken off first",
    )
    prepare.add_argument(
        "--validation",
        type=float,
        default=0.02,
        help="share of the problems in the validation split (default: 0.02)",
    )
    prepare.add_argument(
        "--max-prompt-tokens",
        type=int,
        metavar="N",
        help="drop prompts with more tokens, chat template and all; needs --tokenizer (default: "
        "all are kept, and training refuses or skips those that leave no room for a response)",
    )
    prepare.add_argument(
        "--tokenizer", default="", metavar="MODEL", help="of the model that is to be trained"
    )
    prepare.add_argument(
        "--ngram", type=int, default=GRAM, help="tokens in a run that counts (default: %(default)s)"
    )
    prepare.add_argument(
        "--overlap",
        type=float,
        default=SHARE,
        help="share of a problem's runs that makes it a benchmark's (default: %(default)s)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
