"""The command: every peer on every task, in turn, then the comparison."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vespo_openrlhf.peers import figures, stacks, trl_env
from vespo_openrlhf.peers.task import TASKS, Task

PEERS = ("ours", "openrlhf", "trl", "trl_continuous")
LEAST_BATCHES = figures.FIRST_LEFT_OUT + figures.LAST_LEFT_OUT + 1

_DESCRIPTION = """\
Train one job with this project, with stock OpenRLHF and with TRL, one after the other on this
machine, and compare: samples trained a second, seconds to 90 % of the final accuracy, and the most
memory that all processes took together. Nothing else should run meanwhile.

  small  the quickstart's model, 0.34 M parameters, answers of about 30 tokens;
         512 samples and 8 updates a rollout batch
  large  5.1 M parameters, answers of 25 to 256 tokens, 85 in the mean;
         128 samples and 8 updates a rollout batch

Each is run as its users would run it here, in float32, with the same prompts, samples of a prompt,
temperature 1 from the whole distribution, learning rate and its schedule, group-normalised
advantages and no KL, and the reward of reward/math_reward.py:

  ours      vespo train, asynchronous with partial rollout, VESPO: the quickstart's flags
  openrlhf  OpenRLHF's own asynchronous trainer with partial rollout, engines and correction, PPO
            (it has no VESPO), on our CPU stack, without which it does not run here
  trl       GRPOTrainer with loss_type vespo and transformers' generate, one generation of a
            rollout batch and 8 updates on it; the reward is called in its process. In an
            environment of its own, which is made where it is not there
  trl_continuous  the same with transformers' continuous batching: faster where answers are uneven.
            Of the two the faster one counts in ours_over_trl

Ours and OpenRLHF give each process one thread, TRL its one process torch's default. Samples a
second leave out the first two rollout batches and the last. The final accuracy is the mean reward
of the last four, and 90 % of it is reached when the mean of three in a row is. Start-up lasts until
the first rollout batch begins to be generated. Memory is the proportional set size, every 5 s.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is not there yet, and print the table or the JSON.

    Args:
        arguments: of the command line; those of the process if None.

    Returns:
        0, or 1 if a part failed, with the end of its log on standard error.
    """
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what runs ends too
    started = time.monotonic()
    try:
        results = {
            size: _compare(_task(size, options.batches), options.peers, options)
            for size in options.sizes
        }
    except (RuntimeError, ValueError) as error:
        print(f"bench_peers.py: {error}", file=sys.stderr)
        return 1
    _say(f"{time.monotonic() - started:.0f} s in all")
    print(json.dumps(results) if options.json else figures.table(results))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bench_peers.py",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def some_of(known: Sequence[str]) -> Any:
        def parse(text: str) -> list[str]:
            chosen = text.split(",")
            if unknown := [name for name in chosen if name not in known]:
                raise argparse.ArgumentTypeError(
                    f"{', '.join(unknown)}: choose from {', '.join(known)}"
                )
            return [name for name in known if name in chosen]

        return parse

    def batches(text: str) -> int:
        if (number := int(text)) < LEAST_BATCHES:
            raise argparse.ArgumentTypeError(f"{number}: at least {LEAST_BATCHES} can be timed")
        return number

    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument(
        "--sizes", type=some_of(list(TASKS)), default=list(TASKS), help="default: small,large"
    )
    parser.add_argument(
        "--peers",
        type=some_of(PEERS),
        default=list(PEERS),
        help=f"default: all of {','.join(PEERS)}",
    )
    parser.add_argument(
        "--batches", type=batches, metavar="N", help="rollout batches of each (default: 24 and 12)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/peers"),
        metavar="DIR",
        help="models and runs (default: runs/peers). Parts that are finished there are not run "
        "again: remove it, or name another, for figures of one time",
    )
    parser.add_argument(
        "--venv",
        type=Path,
        default=Path(f"runs/trl-{trl_env.TRL}"),
        metavar="DIR",
        help="TRL's environment, 1.5 GB (default: %(default)s)",
    )
    return parser


def _task(size: str, batches: int | None) -> Task:
    task = TASKS[size]
    return dataclasses.replace(task, batches=batches) if batches else task


def _compare(task: Task, peers: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    out = options.out.absolute()
    return figures.compared({peer: _part(task, peer, out, options.venv) for peer in peers})


def _part(task: Task, peer: str, out: Path, venv: Path) -> dict[str, Any]:
    """The figures of one peer on one task, from a run of now or from one that is there."""
    folder = out / task.name / peer
    result = folder / "figures.json"
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text())
        if found["batches"] != task.batches:
            raise ValueError(
                f"{folder} holds a run of {found['batches']} rollout batches, not {task.batches}: "
                "name another folder with --out, or remove this one"
            )
        _say(f"{task.name}, {peer}: found in {folder}")
        return found
    model, data = _built(task, out)
    if peer.startswith("trl"):
        trl_env.python(venv.absolute())
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    job = stacks.Job(task, model, data, folder)
    _say(f"{task.name}, {peer}: {task.batches} rollout batches of {task.samples} samples")
    started = time.monotonic()
    run = {
        "ours": stacks.run_ours,
        "openrlhf": stacks.run_openrlhf,
        "trl": lambda job: stacks.run_trl(job, venv.absolute(), continuous=False),
        "trl_continuous": lambda job: stacks.run_trl(job, venv.absolute(), continuous=True),
    }[peer](job)
    figure = figures.figures(run)
    (folder / "recorded.json").write_text(json.dumps(dataclasses.asdict(run)))
    result.write_text(json.dumps(figure))
    _say(f"  {figure['samples_per_second']} samples/s; {time.monotonic() - started:.0f} s")
    return figure


def _built(task: Task, out: Path) -> tuple[Path, Path]:
    """The model and the data, made where they are not there. In a process of its own: what torch
    takes here would be taken from the peers."""
    embedded = out / "embedded"
    _say("the embedded model and its data" if task.name == "small" else "the model of 5.1 M")
    steps = [["vespo_openrlhf.embedded", "--out", str(embedded), "--quiet"]]
    model = embedded / "model"
    if task.name == "large":
        model = out / "uneven"
        steps.append(["vespo_openrlhf.peers.uneven", str(embedded), str(model)])
    for step in steps:
        done = subprocess.run([sys.executable, "-m", *step], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{step[0]} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return model, embedded / "train.jsonl"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
