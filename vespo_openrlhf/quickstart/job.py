"""Submits the training job to a cluster and shows how far it is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vespo_openrlhf.quickstart.local_ray import LocalCluster, ray_command

_POLL_S = 0.5
_TAIL_LINES = 40
# Ray's answer where the process that is to start the job is not up: on a busy machine that takes it
# longer than the 10 seconds that Ray waits for it.
_NOT_YET = "No available agent to submit job"
_SUBMISSIONS = 6


def to_arguments(flags: Mapping[str, Any]) -> list[str]:
    """Flags by dotted name as a command line: True is a switch, a list several values."""
    arguments = []
    for flag, value in flags.items():
        values = [] if value is True else value if isinstance(value, list) else [value]
        arguments += [f"--{flag}", *map(str, values)]
    return arguments


def run_job(
    cluster: LocalCluster,
    arguments: Sequence[str],
    *,
    log: Path,
    metrics: Path,
    total_steps: int,
    submitted: Callable[[], None] = lambda: None,
    trained: Callable[[], None] = lambda: None,
) -> None:
    """`ray job submit -- python -m vespo_openrlhf.train ...`, followed to its end.

    Args:
        cluster: where to submit to.
        arguments: of `vespo_openrlhf.train`.
        log: file that takes the job's output.
        metrics: the run's `metrics.jsonl`, which is read along for the progress bar.
        total_steps: rollout batches the run will take.
        submitted: called while the job starts.
        trained: called while the job ends, once the run is finished and its model is written.

    Raises:
        RuntimeError: the job failed; the message holds the end of its log.
    """
    entrypoint = [sys.executable, "-m", "vespo_openrlhf.train", *arguments]
    command = [*ray_command(), "job", "submit", "--address", cluster.dashboard, "--"]
    for attempt in range(1, _SUBMISSIONS + 1):
        with open(log, "wb") as output:
            job = subprocess.Popen(
                [*command, *entrypoint],
                env=cluster.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                if attempt == 1:
                    submitted()
                finished = metrics.with_name("finished.json")
                _show_progress(job, metrics, finished, total_steps)
                if finished.exists():
                    trained()
                job.wait()
            finally:
                if job.poll() is None:  # interrupted: the cluster ends the job itself when it stops
                    job.kill()
                    job.wait()
        if job.returncode == 0:
            return
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-_TAIL_LINES:])
        if _NOT_YET not in tail:
            break
    raise RuntimeError(f"the training job failed; the end of {log}:\n{tail}")


def _show_progress(
    job: subprocess.Popen[bytes], metrics: Path, finished: Path, total_steps: int
) -> None:
    with tqdm(total=total_steps, desc="training", unit="batch", dynamic_ncols=True) as bar:
        bar.set_postfix_str("starting Ray workers and their models")
        lines = _follow(metrics, job, finished)
        for line in lines:
            if line["kind"] != "train":
                continue
            bar.update(line["step"] - bar.n)
            bar.set_postfix_str(", ".join(_shown(line)))


def _shown(line: Mapping[str, Any]) -> Iterator[str]:
    """The metrics beside the bar; those of the weight stand under the name of the loss."""
    for metric, text in (
        ("rollout/reward_mean", "reward {:.2f}"),
        ("*/log_w_abs_mean", "|log W| {:.3f}"),
        ("*/ess_ratio", "ESS {:.2f}"),
    ):
        found = [name for name in line if fnmatch(name, metric) and name.count("/") == 1]
        values = [line[name] for name in found if line[name] is not None]
        yield from (text.format(value) for value in values[:1])


def _follow(path: Path, job: subprocess.Popen[bytes], finished: Path) -> Iterator[dict[str, Any]]:
    """Every line of `path` as it is written, until the run is `finished` or the job has ended, and
    all was read."""
    position = 0
    while True:
        ended = job.poll() is not None or finished.exists()
        if path.exists():
            with open(path, encoding="utf-8") as file:
                file.seek(position)
                while (line := file.readline()).endswith("\n"):
                    position = file.tell()
                    yield json.loads(line)
        if ended:
            return
        time.sleep(_POLL_S)
