"""`vespo eval`: run, score, compare, report, watch and bench evaluations, and a paper's."""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from vespo_openrlhf.eval.errors import EvaluationError

DESCRIPTION = """\
Evaluate language models on benchmarks with checkable answers.

  vespo eval run --model Qwen/Qwen3-1.7B --benchmarks aime24:32,math500:4 --out runs/qwen3
  vespo eval score runs/qwen3                      judge again, without generating
  vespo eval compare runs/base runs/qwen3          paired tests between models
  vespo eval report runs/base runs/qwen3           one HTML file to look through
  vespo eval paper runs/qwen3                      VESPO's published numbers beside yours
  vespo eval watch runs/train/ckpt --out runs/curve   checkpoints as they appear
  vespo eval bench --model Qwen/Qwen3-1.7B         what the harness costs over plain vLLM

Killed at any point, the same `run` command resumes and generates only what is missing.
"""

RUN = """\
Generate, judge and summarise. Writes OUT/summary.json, the same in lm-evaluation-harness's shape
as OUT/results.json, OUT/manifest.json and, line by line as they finish,
OUT/<benchmark>/generations.jsonl. The same command resumes what was interrupted;
more benchmarks or repeats can be added to the same folder, other settings cannot (--fresh).
A request that an endpoint refuses for good is recorded with its error and counts as wrong; the
rest goes on, and the exit status is 1 as long as there is one (--retry-errors).
"""

SCORE = """\
Judge without generating. `score DIR` judges a run's records again, after the verifier changed or
was busy. `score --benchmark NAME --responses FILE.jsonl` scores what another system wrote: a line
is {"id": ..., "response": ...}; ids are the data's own unique_id or id, else the row number from
0; several lines of one id are its repeats.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0; 2 for what the user can mend, 1 for what gave way outside, or requests that failed; 128
        and the signal's number where one stopped it: 130 for Ctrl-C, 143 for SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands: dict[str, Callable[[Sequence[str]], int]] = {
        "run": run,
        "score": score,
        "compare": _elsewhere("vespo_openrlhf.eval.compare"),
        "report": _elsewhere("vespo_openrlhf.eval.report"),
        "paper": _elsewhere("vespo_openrlhf.eval.paper"),
        "watch": _elsewhere("vespo_openrlhf.eval.watch"),
        "bench": _elsewhere("vespo_openrlhf.eval.bench"),
    }
    parser = argparse.ArgumentParser(
        prog="vespo eval",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=commands)
    command = parser.parse_args(arguments[:1]).command
    try:
        with _orderly_end():
            return commands[command](arguments[1:])
    except (ValueError, OSError) as error:
        print(f"vespo eval {command}: error: {error}", file=sys.stderr)
        return 2
    except EvaluationError as error:
        print(f"vespo eval {command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"\nvespo eval {command}: interrupted", file=sys.stderr)
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)


@contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: what came back is written first."""

    def stop(signum: int, _: object) -> None:
        raise KeyboardInterrupt(signum)

    before = {}
    if threading.current_thread() is threading.main_thread():
        for signum in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(signum) is not signal.SIG_IGN:  # as nohup has it
                before[signum] = signal.signal(signum, stop)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _elsewhere(module: str) -> Callable[[Sequence[str]], int]:
    def command(arguments: Sequence[str]) -> int:
        result: int = importlib.import_module(module).main(arguments)
        return result

    return command


def run(argv: Sequence[str]) -> int:
    """`vespo eval run`."""
    from vespo_openrlhf.eval.options import add_run_options, run_of
    from vespo_openrlhf.eval.presets import parse_with_preset
    from vespo_openrlhf.eval.records import MANIFEST
    from vespo_openrlhf.eval.tracking import add_tracking_options, check_tracking, track

    parser = argparse.ArgumentParser(
        prog="vespo eval run",
        description=RUN,
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
    from vespo_openrlhf.eval import runner, tables

    if arguments.dry_run:
        planned = runner.plan(what)
        left = runner.left_to_do(
            planned, arguments.out, fresh=arguments.fresh, retry_errors=arguments.retry_errors
        )
        print(tables.plan_text(planned, left))
        return 0
    try:
        summary = runner.execute(
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


def score(argv: Sequence[str]) -> int:
    """`vespo eval score`."""
    parser = argparse.ArgumentParser(
        prog="vespo eval score",
        description=SCORE,
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
    from vespo_openrlhf.eval import scoring, tables

    if foreign:
        result = scoring.score_responses(
            arguments.benchmark, arguments.responses, arguments.data_dir, arguments.template
        )
        summary = {"benchmarks": {result["benchmark"]: result}, "average": result["avg@k"]}
    else:
        result = summary = scoring.rescore(arguments.folder)
    print(json.dumps(result, indent=2) if arguments.json else tables.summary_table(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
