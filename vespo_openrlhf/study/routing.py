"""With and without routing replay: the embedded mixture of experts on the full stack.

    python -m vespo_openrlhf.study routing --out runs/study-routing

The light trainer has no mixture, so every run is a submitted job, synchronous, with the same number
of responses and updates whatever N is. docs/mixture-of-experts.md says what is replayed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from vespo_openrlhf.embedded.arithmetic import DATASOURCE
from vespo_openrlhf.embedded.build import build
from vespo_openrlhf.embedded.options import BuildOptions
from vespo_openrlhf.files import read_json_lines, write_text
from vespo_openrlhf.quickstart.job import run_job, to_arguments
from vespo_openrlhf.quickstart.local_ray import LocalCluster
from vespo_openrlhf.quickstart.pipeline import MAX_PROMPT_TOKENS, MAX_RESPONSE_TOKENS
from vespo_openrlhf.study.statistics import estimate
from vespo_openrlhf.study.tables import markdown, percent, read_rows, write_csv

SEEDS = (1, 2, 3)
UPDATES_PER_BATCH = (8, 64)
REPLAYS = ("off", "engine")
#: Updates of a run, and responses in a mini-batch, eight to a prompt.
UPDATES, MINI_BATCH, GROUP = 128, 64, 8
_EVALUATED = 4  # responses to each held-out problem
_ACCURACY = f"eval_{DATASOURCE}_pass1"  # for each response, whatever their number
_WEIGHTS = ("log_w_abs_mean", "experts_differ")
_REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class RoutingRun:
    """One run: VESPO on the mixture of a seed.

    Attributes:
        seed: of the demonstrations, the problems and the draws.
        updates_per_batch: N.
        replay: of `--moe.routing_replay`.
    """

    seed: int
    updates_per_batch: int
    replay: str

    @property
    def name(self) -> str:
        return f"N{self.updates_per_batch}-{self.replay}-seed{self.seed}"


def runs() -> list[RoutingRun]:
    """All of them, seed by seed."""
    axes = itertools.product(SEEDS, UPDATES_PER_BATCH, REPLAYS)
    return [RoutingRun(seed, n, replay) for seed, n, replay in axes]


def flags(run: RoutingRun, built: Path, out: Path) -> dict[str, Any]:
    """The arguments of `vespo_openrlhf.train`.

    Args:
        run: which one.
        built: the embedded model and its data.
        out: folder of the run.
    """
    prompts = run.updates_per_batch * MINI_BATCH // GROUP
    return {
        "actor.model_name_or_path": built / "model",
        "data.prompt_dataset": built / "train.jsonl",
        "data.input_key": "prompt",
        "data.label_key": "label",
        "data.apply_chat_template": True,
        "data.max_samples": UPDATES * MINI_BATCH // GROUP,
        "data.max_len": MAX_PROMPT_TOKENS + MAX_RESPONSE_TOKENS,
        "rollout.max_new_tokens": MAX_RESPONSE_TOKENS,
        "reward.remote_url": _REPOSITORY / "reward" / "math_reward.py",
        "moe.routing_replay": run.replay,
        "actor.policy_loss_type": "vespo",
        "algo.advantage.estimator": "group_norm",
        "algo.kl.init_coef": 0,
        "rollout.batch_size": prompts,
        "rollout.n_samples_per_prompt": GROUP,
        "train.batch_size": MINI_BATCH,
        "train.micro_batch_size": MINI_BATCH,
        "rollout.micro_batch_size": MINI_BATCH,
        "actor.adam.lr": "4e-4",
        "actor.lr_scheduler": "constant",
        "actor.lr_warmup_ratio": 0,
        "actor.num_gpus_per_node": 1,
        "vllm.num_engines": 1,
        "eval.dataset": built / "heldout.jsonl",
        "eval.steps": UPDATES // run.updates_per_batch,
        "eval.temperature": 1,
        "eval.n_samples_per_prompt": _EVALUATED,
        "ckpt.best_metric_key": "none",
        "train.seed": run.seed,
        "run.dir": out,
    }


def run_all(out: Path) -> None:
    """Run what is missing, one job after the other; runs.csv has a row for each that is finished.

    Raises:
        RuntimeError: a job failed, or left no evaluation; the message says which run, and holds the
            end of its log.
    """
    rows = []
    for number, run in enumerate(every := runs(), start=1):
        folder = out / f"{run.name}-{_digest(run)}"
        result = folder / "result.json"
        if not result.exists():
            print(f"{number} of {len(every)}: {run.name}", flush=True)
            try:
                row = _row(run, _run(run, out, folder))
            except RuntimeError as error:
                raise RuntimeError(f"the run {run.name} failed: {error}") from error
            write_text(result, json.dumps(row))
        rows.append(json.loads(result.read_text(encoding="utf-8")))
        write_csv(out / "runs.csv", rows)


def _digest(run: RoutingRun) -> str:
    """Of all that the run computes with, wherever that lies."""
    its_flags = {
        name: value.name if isinstance(value, Path) else value
        for name, value in flags(run, Path("model"), Path("run")).items()
    }
    facts = {"flags": its_flags, "model": _model(run).as_manifest()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]


def _model(run: RoutingRun) -> BuildOptions:
    return BuildOptions(seed=run.seed, moe=True)


def _run(run: RoutingRun, out: Path, folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    built = out / f"model-seed{run.seed}"
    build(built, _model(run))
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with LocalCluster(folder / "ray.log") as cluster:
        run_job(
            cluster,
            to_arguments(flags(run, built, folder / "run")),
            log=folder / "job.log",
            metrics=folder / "run" / "metrics.jsonl",
            total_steps=UPDATES // run.updates_per_batch,
        )
    return read_json_lines(folder / "run" / "metrics.jsonl")


def _row(run: RoutingRun, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A row of runs.csv: accuracy after the last update; of the weights the mean over batches."""
    finals = [line[_ACCURACY] for line in lines if line.get(_ACCURACY) is not None]
    if not finals:
        raise RuntimeError("its job left no evaluation of the held-out problems")
    row: dict[str, Any] = {"seed": run.seed, "N": run.updates_per_batch, "replay": run.replay}
    row["final"] = finals[-1]
    for name in _WEIGHTS:
        values = [line[f"vespo/{name}"] for line in lines if line.get(f"vespo/{name}") is not None]
        row[name] = float(f"{fmean(values):.5g}") if values else None
    return row


def table(path: Path) -> str:
    """A row a condition: how it ends over seeds, and what replay changes, paired by seed. A run
    that failed is a row whose `final` is empty.

    Raises:
        ValueError: not exactly the runs of `runs`; see `read_rows`.
    """
    found: dict[RoutingRun, dict[str, float]] = {}
    planned = runs()

    def take(row: Mapping[str, str]) -> None:
        run = RoutingRun(int(row["seed"]), int(row["N"]), row["replay"])
        if run in found or run not in planned:
            raise ValueError(f"{run.name} is no run of it, or is there twice")
        found[run] = {name: float(row[name] or "nan") for name in _WEIGHTS}
        found[run]["final"] = final = float(row["final"] or 0)
        if not math.isfinite(final):
            raise ValueError("an accuracy is not finite")

    read_rows(path, take)
    if missing := [run.name for run in planned if run not in found]:
        raise ValueError(
            f"{path}: {len(missing)} of {len(planned)} runs are missing, {missing[0]} among them: "
            "run `python -m vespo_openrlhf.study routing` to its end"
        )
    rows = []
    for n, replay in itertools.product(UPDATES_PER_BATCH, REPLAYS):
        own = [found[RoutingRun(seed, n, replay)] for seed in SEEDS]
        without = [found[RoutingRun(seed, n, REPLAYS[0])] for seed in SEEDS]
        over_seeds = estimate([row["final"] for row in own])
        change = estimate([a["final"] - b["final"] for a, b in zip(own, without, strict=True)])
        log_w, differ = (fmean(row[name] for row in own) for name in _WEIGHTS)
        rows.append(
            [
                *(str(n), replay, percent(over_seeds.mean, over_seeds.half_width)),
                "–" if replay == REPLAYS[0] else percent(change.mean, change.half_width),
                *("–" if math.isnan(log_w) else f"{log_w:.2f}", percent(differ)),
            ]
        )
    headings = ("N", "replay", "final accuracy, %", "change, points", "mean abs. log W")
    return markdown((*headings, "experts that differ, %"), rows)


def main(arguments: Sequence[str]) -> int:
    """Run them and print the table.

    Returns:
        0; 1 if a run failed and 130 if interrupted, with the reason on standard error.
    """
    parser = argparse.ArgumentParser(
        prog="python -m vespo_openrlhf.study routing",
        description="VESPO on the embedded mixture of experts, with and without routing replay, "
        f"at N = {' and '.join(map(str, UPDATES_PER_BATCH))} on {len(SEEDS)} seeds: "
        f"{len(runs())} jobs on the full stack, some minutes each on two cores. Finished "
        "ones are kept and skipped the next time.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/study-routing"), metavar="DIR")
    out = parser.parse_args(arguments).out
    try:
        run_all(out)
        print(table(out / "runs.csv"))
    except (OSError, RuntimeError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0
