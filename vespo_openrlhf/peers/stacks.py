"""Starts each peer on a task, and reads what it recorded."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from vespo_openrlhf.cpu import FORCE_VARIABLE
from vespo_openrlhf.files import read_json_lines
from vespo_openrlhf.peers import trl_env
from vespo_openrlhf.peers.figures import Batch, Run
from vespo_openrlhf.peers.task import LEARNING_RATE, Task
from vespo_openrlhf.peers.usage import Watch
from vespo_openrlhf.quickstart.job import to_arguments
from vespo_openrlhf.quickstart.pipeline import Plan, training_flags

SEED = 0
_REPOSITORY = Path(__file__).resolve().parents[2]
_GRACE_S = 20.0

#: After `flags`: a loss of OpenRLHF's own, with the correction that asynchronous training needs.
STOCK_FLAGS = (
    *("--actor.policy_loss_type", "ppo", "--vespo.anchor", "old"),
    *("--algo.advantage.is_correction_level", "token"),
)


@dataclass(frozen=True)
class Job:
    """A task and where its files are.

    Attributes:
        task: what to train.
        model: a folder in Hugging Face's format.
        data: JSON lines with `prompt` and `label`.
        out: an empty folder for what the run leaves.
    """

    task: Task
    model: Path
    data: Path
    out: Path


def flags(job: Job) -> list[str]:
    """The quickstart's of `vespo_openrlhf.train`, with what this job has otherwise."""
    task = job.task
    own = {
        "actor.model_name_or_path": job.model,
        "data.prompt_dataset": job.data,
        "data.max_samples": task.prompts * task.batches,
        "data.max_len": task.max_prompt_tokens + task.max_response_tokens,
        "rollout.max_new_tokens": task.max_response_tokens,
        "rollout.batch_size": task.prompts,
        "rollout.n_samples_per_prompt": task.samples_per_prompt,
        "train.batch_size": task.samples_per_update,
        "train.micro_batch_size": task.samples_per_update,
        "rollout.micro_batch_size": task.samples_per_update,
        "actor.adam.lr": LEARNING_RATE,
    }
    plan = Plan(job.out, seed=SEED, batches=task.batches)
    return [*training_flags(plan), *to_arguments(own)]  # the last of a repeated flag counts


def run_ours(job: Job) -> Run:
    command = [sys.executable, "-m", "vespo_openrlhf.train", *flags(job)]
    started, watch = _run(command, job.out)
    run = job.out / "run"
    return Run(started, _ours_began(run), _ours_batches(run), watch.peak_bytes, watch.cpu)


def run_openrlhf(job: Job) -> Run:
    command = [sys.executable, "-m", "vespo_openrlhf.peers.stock", *flags(job), *STOCK_FLAGS]
    started, watch = _run(command, job.out)
    began, batches = _openrlhf_batches(job.out / "run", job.task.samples)
    return Run(started, began, batches, watch.peak_bytes, watch.cpu)


def run_trl(job: Job, venv: Path, *, continuous: bool) -> Run:
    """With transformers' `generate`, or with its continuous batching."""
    interpreter = trl_env.python(venv)
    description = job.out / "job.json"
    paths = {"model": str(job.model), "data": str(job.data), "out": str(job.out)}
    numbers = {**dataclasses.asdict(job.task), "seed": SEED, "continuous": continuous}
    description.write_text(json.dumps(paths | numbers))
    command = [str(interpreter), "-m", "vespo_openrlhf.peers.trl_run", str(description)]
    started, watch = _run(command, job.out)
    began, batches = _trl_batches(job.out / "batches.jsonl")
    return Run(started, began, batches, watch.peak_bytes, watch.cpu)


def _ours_batches(run_dir: Path) -> list[Batch]:
    lines = read_json_lines(run_dir / "metrics.jsonl")
    return [
        Batch(line["time"], line["rollout/reward_mean"], int(line["rollout/num_samples"]))
        for line in lines
        if line["kind"] == "train"
    ]


def _ours_began(run_dir: Path) -> float:
    """When the first group was sent to an engine. Its stamp is of the clock that all processes of a
    machine have in common, and that starts with the machine."""
    first = min(group["dispatched_at"] for group in read_json_lines(run_dir / "samples.jsonl"))
    return first + time.time() - time.monotonic()


def _openrlhf_batches(run_dir: Path, samples: int) -> tuple[float, list[Batch]]:
    """From TensorBoard's events, all that OpenRLHF writes. The first batch began as long before its
    end as its parts took, one after another."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = (run_dir / "tensorboard").rglob("events*")
    scalars = EventAccumulator(str(events), {"scalars": 0}).Reload().Scalars
    rewards = scalars("train/rollout/reward_mean")
    stages = ("generation", "make_experience", "ppo_train", "broadcast")
    took = sum(scalars(f"train/timing/{stage}")[0].value for stage in stages)
    batches = [Batch(event.wall_time, event.value, samples) for event in rewards]
    return batches[0].time - took, batches


def _trl_batches(path: Path) -> tuple[float, list[Batch]]:
    first, *rest = read_json_lines(path)
    return first["began"], [Batch(**line) for line in rest]


def _run(command: list[str], out: Path) -> tuple[float, Watch]:
    """Run it to its end; when it was started, and what was seen of it.

    Raises:
        RuntimeError: it failed; the message holds the end of its log.
    """
    log = out / "log"
    started = time.time()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            command,
            env=_environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # so that what it has started ends with it
        )
        try:
            with Watch(process.pid) as watch:
                process.wait()
        finally:
            _end(process)
    if process.returncode:
        tail = log.read_text(errors="replace")[-3000:]
        raise RuntimeError(f"{' '.join(command[:3])} failed; the end of {log}:\n{tail}")
    return started, watch


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupted: as Ctrl-C would in a terminal, and for good if it takes too long."""
    if process.poll() is not None:
        return
    for number in (signal.SIGINT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_S)
            return


def _environment() -> dict[str, str]:
    """Of this process, on the CPU whatever there is, and without its own number of threads: each
    peer has its own defaults."""
    inherited = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
    path = os.pathsep.join(filter(None, [str(_REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    return {**inherited, FORCE_VARIABLE: "1", "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
