"""`vespo eval score`: judge without generating."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from vespo_openrlhf.eval.report import tables
from vespo_openrlhf.eval.running.rescoring import rescore, score_responses

DESCRIPTION = """\
Judge without generating. `score DIR` judges a run's records again, after the verifier changed or
was busy. `score --benchmark NAME --responses FILE.jsonl` scores what another system wrote: a line
is {"id": ..., "response": ...}; ids are the data's own unique_id or id, else the row number from
0; several lines of one id are its repeats.
"""


def main(argv: Sequence[str]) -> int:
    """`vespo eval score`."""
    parser = argparse.ArgumentParser(
        prog="vespo eval score",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", nargs="?", type=Path, metavar="DIR", help="folder of a run")
    parser.add_argument("--benchmark", help="name, or file, of the problems that were answered")
    parser.add_argument("--responses", type=Path, metavar="FILE", help="JSONL with id, response")
    parser.add_argument("--data-dir", type=Path, help="folder with the benchmark's file")
    parser.add_argument(
        "--template",
        default="",
        help="of the prompts that were answered; with dapo an answer needs no box",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    arguments = parser.parse_args(argv)
    foreign = arguments.folder is None
    given = (arguments.benchmark is not None, arguments.responses is not None)
    if given != (foreign, foreign):
        raise ValueError("give the folder of a run, or --benchmark and --responses")

    if foreign:
        result = score_responses(
            arguments.benchmark, arguments.responses, arguments.data_dir, arguments.template
        )
        summary = {"benchmarks": {result["benchmark"]: result}, "average": result["avg@k"]}
    else:
        result = summary = rescore(arguments.folder)
    print(json.dumps(result, indent=2) if arguments.json else tables.summary_table(summary))
    return 0
