"""docs/fidelity.md holds what the recipes submit, and a reason wherever that is not the paper's."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.bridge.loss import build_loss, uses_our_loss
from vespo_openrlhf.bridge.scheduler_config import scheduler_config
from vespo_openrlhf.check.recipe import submitted_flags
from vespo_openrlhf.check.resolve import resolve

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "fidelity.md").read_text(encoding="utf-8")
RECIPES: dict[str, tuple[str, ...]] = {
    "sync": ("qwen3-30b-a3b-sync", "8"),
    "async": ("qwen3-30b-a3b-async",),
    "8B": ("qwen3-8b",),
    "3B": ("llama-3.2-3b",),
}
UNKNOWN = "not said"
Flags = dict[str, Any]


def rows(title: str) -> list[list[str]]:
    """The cells of the table under a heading: setting, paper, published code, here, why."""
    (section,) = re.findall(rf"^## {title}\n(.*?)(?=^## )", PAGE, re.M | re.S)
    lines = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def values(cell: str) -> dict[str, str]:
    """The value of each recipe; notes in brackets at the end are for the reader."""
    found: dict[str, str] = {}
    for part in cell.split("; "):
        name, colon, value = part.partition(": ")
        if colon and name in RECIPES:
            found[name] = _bare(value)
        else:
            assert not found, f"{cell!r} mixes values with and without names"
            return dict.fromkeys(RECIPES, _bare(cell))
    return found


def _bare(value: str) -> str:
    return re.sub(r" \([^)]*\)$", "", value)


def number(value: float) -> str:
    return f"{value:g}"


def pair(*of: float) -> str:
    return ", ".join(map(number, of))


def updates(flags: Flags) -> int:
    return scheduler_config(flags).updates_per_batch


def gpus(flags: Flags) -> str:
    trainer = flags["actor.num_nodes"] * flags["actor.num_gpus_per_node"]
    engines = flags["vllm.num_engines"] * flags["vllm.tensor_parallel_size"]
    if flags["train.async_enable"]:
        return f"{engines} + {trainer}"
    assert trainer == engines
    return str(trainer)


def correction(flags: Flags) -> str:
    # A loss of ours sets the level only for the engine to report its log-probs.
    level = flags["algo.advantage.is_correction_level"]
    return "none" if uses_our_loss(flags) or level == "off" else level


def loss(option: str) -> Callable[[Flags], Any]:
    return lambda flags: build_loss(flags).options[option]


HERE: dict[str, Callable[[Flags], str]] = {
    "model": lambda f: f["actor.model_name_or_path"].rpartition("/")[2],
    "GPUs": gpus,
    "trainer": lambda f: f"ZeRO-{f['ds.zero_stage']}",
    "prompts per update": lambda f: str(f["rollout.batch_size"] // updates(f)),
    "responses per prompt": lambda f: str(f["rollout.n_samples_per_prompt"]),
    "updates per rollout batch": lambda f: str(updates(f)),
    "longest prompt, tokens": lambda f: str(f["data.max_len"] - f["rollout.max_new_tokens"]),
    "longer prompts": lambda f: {"skip": "left out"}[f["data.overlong_prompts"]],
    "longest response, tokens": lambda f: str(f["rollout.max_new_tokens"]),
    "updates": lambda f: str(
        f["data.max_samples"]
        * f["train.num_episodes"]
        * f["rollout.n_samples_per_prompt"]
        // f["train.batch_size"]
    ),
    "learning rate": lambda f: number(f["actor.adam.lr"]),
    "schedule": lambda f: f["actor.lr_scheduler"],
    "warm-up": lambda f: number(f["actor.lr_warmup_ratio"]),
    "Adam's betas": lambda f: pair(*f["actor.adam.betas"]),
    "weight decay": lambda f: number(f["actor.adam.weight_decay"]),
    "gradient norm at most": lambda f: number(f["actor.max_norm"]),
    "gradients added up in": lambda f: {"fp32": "float32"}[f["ds.grad_accum_dtype"]],
    "KL coefficient": lambda f: number(f["algo.kl.init_coef"]),
    "entropy coefficient": lambda f: number(f["actor.entropy_coef"] or 0),
    "entropy logged": lambda f: "no" if f["actor.entropy_coef"] is None else "yes",
    "temperature": lambda f: number(f["rollout.temperature"]),
    "top-p": lambda f: number(f["rollout.top_p"]),
    "W starts from": loss("anchor"),
    "correction of engine mismatch": correction,
    "kernel, A >= 0": lambda f: pair(loss("c1_pos")(f), loss("c2_pos")(f)),
    "kernel, A < 0": lambda f: pair(loss("c1_neg")(f), loss("c2_neg")(f)),
    "length normalisation of W": loss("length_normalisation"),
    "advantage": lambda f: {
        "group_norm": "(reward - mean) / std",
        "dr_grpo": "reward - mean",
    }[f["algo.advantage.estimator"]],
    "loss averaged over": lambda f: {"token-mean": "tokens"}[loss("loss_agg_mode")(f)],
    "oldest token trained, updates": lambda f: str(scheduler_config(f).lag.max),
    "weight sync every, updates": lambda f: str(scheduler_config(f).lag.sync_every or updates(f)),
    "partial rollout": lambda f: "yes" if f["train.partial_rollout_enable"] else "no",
    "checkpoint every, updates": lambda f: str(f["ckpt.save_steps"] * updates(f)),
    "models kept": lambda f: "all" if f["ckpt.save_hf"] else "the last",
    "evaluated in training every, updates": lambda f: str(f["eval.steps"] * updates(f)),
    "responses per evaluated problem": lambda f: str(f["eval.n_samples_per_prompt"]),
    "evaluated at top-p": lambda f: number(f["rollout.top_p"]),
    "tokens of a micro-batch": lambda f: str(f["train.max_tokens_per_gpu"]),
    "GPUs of an engine": lambda f: str(f["vllm.tensor_parallel_size"]),
    "engine's share of memory": lambda f: number(f["vllm.gpu_memory_utilization"]),
}
# Setting -> LOSS, and the options that are in the cell.
RIVALS = {
    "GRPO clip": ("grpo", ("clip_low", "clip_high")),
    "GRPO dual clip": ("grpo", ("dual_clip",)),
    "GRPO averaged over": ("grpo", ("loss_agg_mode",)),
    "GSPO clip": ("gspo", ("clip_low", "clip_high")),
    "SAPO temperatures": ("sapo", ("tau_pos", "tau_neg")),
    "SAPO averaged over": ("sapo", ("loss_agg_mode",)),
    "TOPR length normalisation": ("topr", ("length_normalisation",)),
}


def submitted(name: str) -> Flags:
    script, *words = RECIPES[name]
    return resolve(submitted_flags(ROOT / "scripts" / f"{script}.sh", words)).flags


@pytest.fixture(scope="module")
def recipes() -> dict[str, Flags]:
    return {name: submitted(name) for name in RECIPES}


def unexplained(row: list[str]) -> list[str]:
    """The recipes of a row that differ from the published code, or else the paper, for no reason
    that is given."""
    _, paper, published, here, why = map(str.strip, row)
    known = {name: value for name, value in values(published).items() if value != UNKNOWN}
    known = {k: v for k, v in values(paper).items() if v != UNKNOWN} | known
    mine = values(here)
    return [name for name in mine if name in known and mine[name] != known[name] and not why]


def test_the_tables_are_of_settings_that_are_checked() -> None:
    assert [row[0] for row in rows("Recipes")] == list(HERE)
    assert [row[0] for row in rows("Rivals")] == list(RIVALS)


@pytest.mark.parametrize("row", rows("Recipes"), ids=lambda row: row[0])
def test_a_row_is_what_the_recipes_submit(row: list[str], recipes: dict[str, Flags]) -> None:
    found = {name: HERE[row[0]](flags) for name, flags in recipes.items()}
    assert values(row[3]) == found


@pytest.mark.parametrize("row", rows("Rivals"), ids=lambda row: row[0])
def test_a_rival_has_what_the_page_says(row: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    name, options = RIVALS[row[0]]
    monkeypatch.setenv("LOSS", name)
    own = build_loss(submitted("8B")).options
    cell = [own[option] for option in options]
    assert row[3] == (cell[0] if isinstance(cell[0], str) else pair(*cell))


@pytest.mark.parametrize("row", rows("Recipes") + rows("Rivals"), ids=lambda row: row[0])
def test_every_difference_has_a_reason(row: list[str]) -> None:
    assert unexplained(row) == []


def test_a_difference_without_a_reason_is_found() -> None:
    assert unexplained(["x", "1", "sync: 2; async: not said", "2", ""]) == ["async", "8B", "3B"]
    assert unexplained(["x", "1", "2", "1 (as there)", "because"]) == []
