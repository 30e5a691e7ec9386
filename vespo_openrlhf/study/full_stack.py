"""A cell of the study on the full stack: OpenRLHF, Ray, vLLM and DeepSpeed, as a submitted job.

Same policy, problems, reward and optimizer as the light trainer; what differs is everything in
between, and the order in which the problems come.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vespo_openrlhf.config import LOSS_OPTION_FLAGS
from vespo_openrlhf.embedded.arithmetic import DATASOURCE, write_jsonl
from vespo_openrlhf.files import read_json_lines
from vespo_openrlhf.quickstart.job import run_job, to_arguments
from vespo_openrlhf.quickstart.local_ray import LocalCluster
from vespo_openrlhf.study.cells import Cell, LossSetting, Recipe
from vespo_openrlhf.study.store import Store

FOLDER = "openrlhf"
_REPOSITORY = Path(__file__).resolve().parents[2]


def full_stack_store(store: Store) -> Store:
    """Where a study keeps the results of its full-stack runs."""
    return Store(store.folder / FOLDER, store.recipe)


def check_cells(cells: Sequence[Cell], light: Sequence[Cell], recipe: Recipe) -> None:
    """Whether the full stack can run these, and the light trainer runs the like.

    Raises:
        ValueError: a condition that only the light trainer can make, a cell that it does not run,
            or updates that do not come out even; the message says which.
    """
    known = {(cell.loss.label, cell.condition()) for cell in light}
    for cell in cells:
        _loss_flags(cell.loss)
        if (cell.loss.label, cell.condition()) not in known:
            raise ValueError(
                f"the light trainer runs no {cell.loss.label} at N = {cell.updates_per_batch} to "
                "compare the full stack with: choose with --loss and --n, or another preset"
            )
        if recipe.task != "addition":
            raise ValueError(
                f"the full stack has the task addition alone, not {recipe.task}: leave out --task"
            )
        if cell.lag or cell.mu_noise or cell.engine_noise or cell.sampler_dtype != "float32":
            raise ValueError(
                "the full stack runs cells without extra lag, noise or another sampler's dtype: "
                f"leave out --lag, or the preset of {cell.loss.label}"
            )
        if recipe.updates % cell.updates_per_batch:
            raise ValueError(
                f"{recipe.updates} updates are no whole number of rollout batches of "
                f"{cell.updates_per_batch} updates each"
            )


def run_missing(cells: Sequence[Cell], store: Store) -> None:
    """Run every cell of which there is no result, one after the other.

    Args:
        cells: see `check_cells`.
        store: of `full_stack_store`; every run also has a folder of its own in it.

    Raises:
        RuntimeError: a job failed; the message holds the end of its log.
    """
    for cell in store.missing(cells):
        print(f"full stack: {cell.loss.label}, N = {cell.updates_per_batch}, seed {cell.seed}")
        store.save(cell, run_cell(cell, store))


def run_cell(cell: Cell, store: Store) -> dict[str, Any]:
    """Run one cell.

    Returns:
        plain JSON as of the light trainer's run: `cell`, `recipe`, `evaluations` (one wherever
        the engines got weights and the light trainer evaluates too) and `seconds`; `rewards`,
        the mean of each rollout batch.

    Raises:
        RuntimeError: see `run_missing`.
    """
    from vespo_openrlhf.study.checkpoint import save_checkpoint
    from vespo_openrlhf.study.warm_start import warm_start

    recipe, started = store.recipe, time.monotonic()
    folder = store.folder / cell.key(recipe)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    start = warm_start(cell.seed, recipe, store.folder.parent / "warm_starts")
    save_checkpoint(start.weights, recipe, folder / "model")
    write_jsonl(folder / "train.jsonl", start.training)
    write_jsonl(folder / "held_out.jsonl", start.held_out)
    with LocalCluster(folder / "ray.log") as cluster:
        run_job(
            cluster,
            to_arguments(flags(cell, recipe, folder)),
            log=folder / "job.log",
            metrics=folder / "run" / "metrics.jsonl",
            total_steps=recipe.updates // cell.updates_per_batch,
        )
    lines = read_json_lines(folder / "run" / "metrics.jsonl")
    name = f"eval_{DATASOURCE}_pass1"
    return {
        "cell": asdict(cell),
        "recipe": asdict(recipe),
        "evaluations": [
            (line["step"] * cell.updates_per_batch, line[name]) for line in lines if name in line
        ],
        "rewards": [line["rollout/reward_mean"] for line in lines if line["kind"] == "train"],
        "seconds": round(time.monotonic() - started, 2),
    }


def flags(cell: Cell, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """The arguments of `vespo_openrlhf.train` that make the light trainer's run of this cell.

    Args:
        cell, recipe: which one.
        folder: with model, train.jsonl and held_out.jsonl; the run's own is made in it.
    """
    from vespo_openrlhf.study.tasks.addition import MAX_RESPONSE_TOKENS, MAX_TOKENS

    mini_batch = recipe.groups_per_update * recipe.group_size
    return {
        "actor.model_name_or_path": folder / "model",
        "data.prompt_dataset": folder / "train.jsonl",
        "data.input_key": "prompt",
        "data.label_key": "label",
        "data.max_len": MAX_TOKENS,
        "rollout.max_new_tokens": MAX_RESPONSE_TOKENS,
        "reward.remote_url": _REPOSITORY / "reward" / "math_reward.py",
        # synchronous: all of a rollout batch is sampled with one set of weights
        **_loss_flags(cell.loss),
        "algo.advantage.estimator": "group_norm",
        "algo.kl.init_coef": 0,
        "rollout.batch_size": cell.updates_per_batch * recipe.groups_per_update,
        "rollout.n_samples_per_prompt": recipe.group_size,
        "train.batch_size": mini_batch,
        "train.micro_batch_size": mini_batch,
        "rollout.micro_batch_size": mini_batch,
        "actor.adam.lr": cell.learning_rate,
        "actor.adam.betas": [0.9, 0.999],
        "actor.adam.weight_decay": 0,
        "actor.max_norm": recipe.gradient_clip,
        "actor.lr_scheduler": "constant",
        "actor.lr_warmup_ratio": 0,
        "actor.num_gpus_per_node": 1,
        "vllm.num_engines": 1,
        "eval.dataset": folder / "held_out.jsonl",
        "eval.steps": max(1, recipe.evaluate_every // cell.updates_per_batch),
        "eval.temperature": 1,
        "eval.n_samples_per_prompt": 1,
        "train.seed": cell.seed,
        "run.dir": folder / "run",
    }


def _loss_flags(loss: LossSetting) -> dict[str, Any]:
    """The flags of a loss and its options.

    Raises:
        ValueError: one end of a clip without the other, which share a flag.
    """
    options = dict(loss.options)
    result: dict[str, Any] = {"actor.policy_loss_type": loss.name}
    own_loss = ":" in loss.name
    clip = [options.pop(name) for name in ("clip_low", "clip_high") if name in options]
    if len(clip) == 1:
        raise ValueError(f"{loss.label}: give both clip_low and clip_high for the full stack")
    if clip:
        result["actor.eps_clip_low_high"] = clip
    rest = []
    for name, value in options.items():
        if name in LOSS_OPTION_FLAGS and not own_loss:
            result[LOSS_OPTION_FLAGS[name].removeprefix("--")] = value
        else:
            rest.append(f"{name}={value}")
    return result | ({"vespo.loss_options": rest} if rest else {})
