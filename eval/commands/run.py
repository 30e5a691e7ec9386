"""`vespo eval run`: generate, judge and summarise."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vespo_openrlhf.eval.commands.flags import add_run_options, run_of
from vespo_openrlhf.eval.commands.presets import parse_with_preset
from vespo_openrlhf.eval.commands.tracking import add_tracking_options, check_tracking, track
from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.eval.report import tables
from vespo_openrlhf.eval.results.folder import MANIFEST
from vespo_openrlhf.eval.running.execution import execute, left_to_do
from vespo_openrlhf.eval.running.plan import plan

DESCRIPTION = """\
Generate, judge and summarise. Writes OUT/summary.json, the same in lm-evaluation-harness's shape
as OUT/results.json, OUT/manifest.json and, line by line as they finish,
OUT/<benchmark>/generations.jsonl. The same command resumes what was interrupted;
more benchmarks or repeats can be added to the same folder, other settings cannot (--fresh).
With --agent every response is an episode of many turns.
A request that an endpoint refuses for good, or an episode that fails, is recorded with its error
and counts as wrong; the rest goes on, and the exit status is 1 as long as there is one
(--retry-errors).
"""


def main(argv: Sequence[str]) -> int:
    """`vespo eval run`."""
    parser = argparse.ArgumentParser(
        prog="vespo eval run",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, type=Path, help="folder for the results")
    parser.add_argument(
        "--fresh", action="store_true", help="delete the records in OUT first, whatever made them"
    )
    parser.add_argument(
        "--retry-errors",
        action="store_true",
        help="generate the responses again whose requests failed, and nothing else that is there",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print what would be generated and how many tokens at most, and stop",
    )
    add_run_options(parser)
    add_tracking_options(parser)
    arguments = parse_with_preset(parser, argv)
    what = run_of(arguments)
    check_tracking(arguments)
    if arguments.dry_run:
        planned = plan(what)
        left = left_to_do(
            planned, arguments.out, fresh=arguments.fresh, retry_errors=arguments.retry_errors
        )
        print(tables.plan_text(planned, left))
        return 0
    try:
        summary = execute(
            what, arguments.out, fresh=arguments.fresh, retry_errors=arguments.retry_errors
        )
    except EvaluationError as error:
        raise EvaluationError(
            f"{error}\nWhat was generated until then is in {arguments.out}; the same command goes "
            "on from there."
        ) from error
    print(tables.summary_table(summary))
    print(f"records and summary: {arguments.out}")
    if arguments.wandb or arguments.tensorboard:
        manifest = json.loads((arguments.out / MANIFEST).read_text(encoding="utf-8"))
        track(arguments, manifest, summary)
    if failed := tables.failed_count(summary):
        print(
            f"vespo eval run: {failed} requests failed; their errors are in the records. The same "
            "command with --retry-errors asks just these again.",
            file=sys.stderr,
        )
        return 1
    return 0
