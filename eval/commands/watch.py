"""`vespo eval watch`: evaluate checkpoints as they appear, and plot accuracy over steps."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vespo_openrlhf.eval.benchmarks import parse
from vespo_openrlhf.eval.commands.checkpoints import checkpoints
from vespo_openrlhf.eval.commands.flags import add_run_options, run_of
from vespo_openrlhf.eval.commands.presets import parse_with_preset
from vespo_openrlhf.eval.commands.tracking import add_tracking_options, check_tracking, track
from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.eval.report.best import AVERAGE, find_best
from vespo_openrlhf.eval.report.curve import plot
from vespo_openrlhf.eval.results.folder import MANIFEST, SUMMARY
from vespo_openrlhf.eval.running.plan import GREEDY

DESCRIPTION = """\
Evaluate every Hugging Face checkpoint below CKPT_DIR, those that are there and those that appear,
in the order of their steps (the last number in a folder's name: global_step120_hf,
checkpoint-500). Each gets OUT/step_<n>/, as `vespo eval run` writes it; OUT/accuracy.png shows
accuracy over steps, OUT/best.json the best checkpoint so far. OpenRLHF writes such checkpoints
with --ckpt.save_hf --ckpt.save_steps N. Folders named critic are no policies and are left out.
Stop it with Ctrl-C or SIGTERM, and the evaluation that is running ends with it; started again, it
skips what is done and resumes the rest.
"""

_ATTEMPTS = 2
# An evaluation that is told to end judges and writes what it has.
_GRACE_S = 60.0


def main(argv: Sequence[str]) -> int:
    """Watch until interrupted, or with ``--once`` until what is there is done.

    Returns:
        0, or 1 if ``--once`` left a checkpoint that could not be evaluated.

    Raises:
        ValueError: there is no such folder, options that a run would refuse, or two checkpoints
            of one step.
    """
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--out", required=True, type=Path, help="folder for the results")
    own.add_argument("--once", action="store_true", help="stop once what is there is evaluated")
    own.add_argument(
        "--interval", type=float, default=30.0, help="seconds between looks (default 30)"
    )
    own.add_argument(
        "--best",
        default=AVERAGE,
        metavar="METRIC",
        help="what the best checkpoint is best by: average, or a benchmark's name for its avg@k "
        "(default average). It is chosen on the problems that it is measured on, so its value is "
        "too high: report the chosen one on others",
    )
    add_tracking_options(own)
    parser = argparse.ArgumentParser(
        prog="vespo eval watch",
        description=DESCRIPTION,
        parents=[own],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", metavar="CKPT_DIR", help="where checkpoints appear")
    add_run_options(parser, model=False)
    arguments = parse_with_preset(parser, argv)
    check_tracking(arguments)
    names = [selection.benchmark.name for selection in parse(arguments.benchmarks)]
    if arguments.also_greedy:
        names += [name + GREEDY for name in names]
    if arguments.best not in (AVERAGE, *names):
        raise ValueError(f"--best {arguments.best}: give {AVERAGE} or one of {', '.join(names)}")
    if run_of(arguments, model="", revision=None).endpoint is not None:
        raise ValueError("watch loads each checkpoint itself: leave --endpoint out")
    folder = Path(arguments.folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: there is no such folder")
    _, options = own.parse_known_args(argv)
    options.remove(arguments.folder)  # what is left is for `run`
    arguments.out.mkdir(parents=True, exist_ok=True)
    failures: dict[Path, int] = {}
    passed_over: set[Path] = set()
    while True:
        found, critics = checkpoints(folder)
        for path in sorted(set(critics) - passed_over):
            print(f"{path} is a critic, not a policy: left out", flush=True)
        passed_over.update(critics)
        waiting = [
            (step, path)
            for step, path in found
            if not (_folder(arguments.out, step) / SUMMARY).exists()
            and failures.get(path, 0) < _ATTEMPTS
        ]
        for step, path in waiting[:1]:  # then look again: results come in the order of steps
            print(f"== step {step}: {path}", flush=True)
            command = [sys.executable, "-m", "vespo_openrlhf.eval", "run", "--model", str(path)]
            out = str(_folder(arguments.out, step))
            if _run([*command, "--out", out, *options]):
                failures[path] = failures.get(path, 0) + 1
                print(f"step {step} failed ({failures[path]} of {_ATTEMPTS} times)", flush=True)
            else:
                plot(arguments.out)
                if best := find_best(arguments.out, arguments.best):
                    print(best.text(), flush=True)
                _track(arguments, step)
        if waiting:
            continue
        if arguments.once:
            return int(any(count >= _ATTEMPTS for count in failures.values()))
        time.sleep(arguments.interval)


def _run(command: Sequence[str]) -> int:
    """Run a command in a process of its own, which gives its memory back and cannot take the watch
    with it, but ends where the watch does: told to first, then killed with all it has started.
    """
    # A session of its own: the terminal's Ctrl-C would reach it beside what is sent here.
    child = subprocess.Popen(command, start_new_session=True)
    try:
        return child.wait()
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(_GRACE_S)
            finally:  # also where the user will not wait
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()


def _track(arguments: argparse.Namespace, step: int) -> None:
    """Log a step's results; a watch outlives a service that is down."""
    folder = _folder(arguments.out, step)
    manifest, summary = (json.loads((folder / name).read_text()) for name in (MANIFEST, SUMMARY))
    try:
        track(arguments, manifest, summary, step)
    except EvaluationError as error:
        print(f"WARNING: step {step}: {error}", file=sys.stderr, flush=True)


def _folder(out: Path, step: int) -> Path:
    return out / f"step_{step:06d}"
