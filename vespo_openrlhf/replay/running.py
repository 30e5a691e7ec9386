"""A comparison from its first cell to its table. What is finished is found, and not done again."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vespo_openrlhf import cpu
from vespo_openrlhf.bridge.roles import logical_gpus, roles
from vespo_openrlhf.bridge.run.folder import RunFolder
from vespo_openrlhf.files import write_text
from vespo_openrlhf.quickstart.job import run_job
from vespo_openrlhf.quickstart.local_ray import LocalCluster
from vespo_openrlhf.replay import table
from vespo_openrlhf.replay.accuracy import Accuracy
from vespo_openrlhf.replay.cells import Job
from vespo_openrlhf.report import write_report

#: The first file that a training leaves in its folder.
_RAY_LOG = "ray.log"


def compare(jobs: Sequence[Job], out: Path, accuracy: Accuracy | None) -> int:
    """Train every cell, evaluate its model, and print the table.

    Args:
        jobs: the cells, in their order.
        out: the comparison's folder.
        accuracy: evaluates the model that all start from, and those that come of it; None does
            not.

    Returns:
        The exit status: 0, or 1 if a cell failed; the others are done, and in the table.

    Raises:
        ValueError: this machine has not the GPUs that they ask for.
        RuntimeError: the model that all start from cannot be evaluated.
    """
    _check_gpus(jobs)
    before = {}
    if accuracy is not None:
        start = jobs[0].flags["actor.model_name_or_path"]
        print(f"evaluating {start}, which all start from", flush=True)
        before = accuracy.of(start, out / "start")
    results, failed = [], 0
    for number, job in enumerate(jobs, 1):
        print(f"[{number}/{len(jobs)}] {job.cell}", flush=True)
        started = time.monotonic()
        try:
            found = _train(job)
            after = {}
            if accuracy is not None:
                after = accuracy.of(str(job.folder / "model"), job.folder / "accuracy")
        except RuntimeError as error:
            failed += 1
            print(f"   FAILED: {error}", file=sys.stderr, flush=True)
            continue
        print(f"   {'found' if found else f'{time.monotonic() - started:.0f} s'}", flush=True)
        results.append(table.Result(job.cell, table.figures(job.folder, after)))
    if results:
        figures_file, page = out / "table.json", out / "report.html"
        write_text(figures_file, table.as_json(results, before))
        write_report([out / result.cell.name for result in results], page)
        print(f"\n{table.as_text(results, before)}\n")
        print("a -> b: of the first and of the last rollout batch")
        print(f"figures: {figures_file}\nreport:  {page}")
    if failed:
        print(f"\n{failed} of {len(jobs)} cells failed, see above", file=sys.stderr)
    return int(failed > 0)


def _check_gpus(jobs: Sequence[Job]) -> None:
    if cpu.is_active():  # there they are logical ones
        return
    import torch

    there = torch.cuda.device_count()
    flags = jobs[0].flags  # of the other cells the same models
    if (asked := logical_gpus(flags)) > there:
        raise ValueError(
            f"{', '.join(roles(flags))} of the run take {asked} GPUs, and this machine has "
            f"{there}: give fewer after --, as --actor.num_nodes and --actor.num_gpus_per_node "
            "take them, or have models share theirs with --train.colocate_actor_ref"
        )


def _train(job: Job) -> bool:
    """Whether it had been done.

    Raises:
        RuntimeError: it failed; the message holds the end of its log.
    """
    if (job.folder / "finished.json").exists():
        return True
    _remove(job.folder)
    job.folder.mkdir(parents=True)
    with LocalCluster(job.folder / _RAY_LOG, num_gpus=logical_gpus(job.flags)) as cluster:
        run_job(
            cluster,
            job.arguments,
            log=job.folder / "job.log",
            metrics=job.folder / "metrics.jsonl",
            total_steps=job.batches,
        )
    return False


def _remove(folder: Path) -> None:
    """What an interrupted training has left; it takes no longer than to go on with it.

    Raises:
        RuntimeError: another process trains there, or what is there is not of a training.
    """
    if not folder.exists():
        return
    if not (folder / _RAY_LOG).exists() and any(folder.iterdir()):
        raise RuntimeError(
            f"{folder} holds files that no training of a comparison has left: move them, or give "
            "another folder with --out"
        )
    try:
        with RunFolder(folder).locked():
            shutil.rmtree(folder)
    except ValueError as error:  # another process trains there
        raise RuntimeError(str(error)) from error
