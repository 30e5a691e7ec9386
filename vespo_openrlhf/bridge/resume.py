"""What a run that goes on from a checkpoint may change, and what it must keep: a rule per flag.

The flags of a start are kept beside the checkpoints it writes; those of the next are held against
them before Ray starts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from vespo_openrlhf.bridge.run.checkpoints import Checkpoints
from vespo_openrlhf.bridge.run.folder import RunFolder
from vespo_openrlhf.files import write_text
from vespo_openrlhf.redact import redact

FLAGS_FILE = "flags.json"

_BATCH = "buffered groups, versions and lags count in it"
_LOSS = "the run would be of two objectives"
_DATA = "the checkpoint's place in the data would be another"
_STATE = "DeepSpeed's checkpoint holds the state of the old one"
_SCHEDULE = "the learning rate's place in its schedule would be another"
_SAMPLING = "buffered responses were sampled with the old one"

#: Refused where they differ from the checkpoint's, for the reason given. A name that ends in a dot
#: stands for all that begin with it, unless they have a rule of their own.
REFUSED = {
    "rollout.batch_size": _BATCH,
    "rollout.n_samples_per_prompt": _BATCH,
    "train.batch_size": _BATCH,
    "train.max_epochs": _BATCH,
    "actor.model_name_or_path": "weights, tokenizer and reference model belong together",
    "critic.model_name_or_path": "the checkpoint holds the weights of the old one",
    "actor.policy_loss_type": _LOSS,
    "actor.loss_agg_mode": _LOSS,
    "actor.eps_clip": _LOSS,
    "actor.eps_clip_low_high": _LOSS,
    "actor.dual_clip": _LOSS,
    "actor.aux_loss_coef": _LOSS,
    "actor.entropy_coef": _LOSS,
    "vespo.": _LOSS,
    "moe.": _LOSS,
    "distill.": _LOSS,
    "agent.weight": _LOSS,
    "algo.advantage.": _LOSS,
    "algo.kl.": _LOSS,
    "critic.value_clip": _LOSS,
    "critic.freezing_steps": _LOSS,
    "train.seed": _DATA,
    "data.": _DATA,
    "offline.": _DATA,
    "data.max_len": _SAMPLING,
    "rollout.max_new_tokens": _SAMPLING,
    "rollout.temperature": _SAMPLING,
    "rollout.top_p": _SAMPLING,
    "train.agent_func_path": _SAMPLING,
    "actor.optim": _STATE,
    "actor.muon.": _STATE,
    "actor.adam.": _STATE,
    "critic.optim": _STATE,
    "critic.muon.": _STATE,
    "critic.adam.": _STATE,
    "actor.freeze_visual_encoder": _STATE,
    "train.enable_ema": "checkpoints hold no moving average",
    "train.ema_beta": "checkpoints hold no moving average",
    "actor.lr_scheduler": _SCHEDULE,
    "actor.lr_warmup_ratio": _SCHEDULE,
    "actor.min_lr_ratio": _SCHEDULE,
    "critic.lr_scheduler": _SCHEDULE,
    "critic.lr_warmup_ratio": _SCHEDULE,
    "critic.min_lr_ratio": _SCHEDULE,
    "ds.zero_stage": _STATE,
    "ds.param_dtype": _STATE,
    "ds.zpg": _STATE,
    "ds.adam_offload": _STATE,
    "ds.grad_accum_dtype": _STATE,
    "ds.load_in_4bit": _STATE,
    "ds.lora.": _STATE,
    "ds.tensor_parallel_size": _STATE,
    "ds.ring_attn_size": _STATE,
    "ds.value_head_prefix": _STATE,
}

#: Taken as they are now, with a line that says so.
APPLIED = (
    *("lag.", "rollout.", "train.", "vllm.", "eval.", "ckpt.", "reward.", "ref.", "ds.", "nodes."),
    *("agent.max_turns", "agent.tool_timeout", "offline.epochs"),
    *("algo.dynamic_filtering_enable", "algo.dynamic_filtering_range"),
    # Put into optimizer and schedule after these are loaded: `rank.checkpoint`.
    *("actor.adam.lr", "actor.muon.lr", "critic.adam.lr", "critic.muon.lr"),
    *("actor.max_norm", "critic.max_norm", "critic.save_value_network", "vespo.on_nonfinite"),
    *("vespo.recompute_old_log_probs", "actor.gradient_checkpointing_enable"),
    *("actor.gradient_checkpointing_reentrant", "actor.log_prob_head"),
    # Judged by what is in it: the ledger refuses other prompts.
    *("data.prompt_dataset", "data.disable_fast_tokenizer", "data.dataloader_num_workers"),
    # Judged by their product, below.
    *("actor.num_nodes", "actor.num_gpus_per_node"),
    *("critic.num_nodes", "critic.num_gpus_per_node"),
)

#: What a flag's None stood for in checkpoints of a version that had it as default: a value that can
#: be given, for those who go on with such a run.
_MEANT = {"actor.dual_clip": math.inf}

#: Of no weight, and other at every start: taken without a word.
IGNORED = ("logger.", "run.", "local_rank", "use_ms", "ckpt.load_enable", "ckpt.resume_tag")

_RULES = {
    **dict.fromkeys(IGNORED, "ignore"),
    **dict.fromkeys(APPLIED, "apply"),
    **dict.fromkeys(REFUSED, "refuse"),
}


def rule_of(flag: str) -> tuple[str, str]:
    """("refuse", "apply" or "ignore"; the name in the table), by the most specific entry.

    Raises:
        KeyError: no rule covers the flag.
    """
    if flag in _RULES:
        return _RULES[flag], flag
    prefix = flag
    while "." in prefix.rstrip("."):
        prefix = prefix.rstrip(".").rpartition(".")[0] + "."
        if prefix in _RULES:
            return _RULES[prefix], prefix
    raise KeyError(flag)


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Hold the flags of a start against those of the one before.

    Args:
        before, now: flags by their dotted names, `before` as they were written. A flag that only
            one of them has is of another version, and is passed over.

    Returns:
        A line about each change that is applied.

    Raises:
        ValueError: some of the changes are refused; the message names all of those.
    """
    before, now = _meant(before), _meant(_plain(now))
    refused, applied = list(_ranks(before, now)), []
    for flag in sorted(before.keys() & now.keys()):
        if before[flag] == now[flag]:
            continue
        rule, name = rule_of(flag)
        change = f"--{flag} {_shown(before[flag])} -> {_shown(now[flag])}"
        if rule == "refuse":
            refused.append(f"{change} ({REFUSED[name]})")
        elif rule == "apply":
            applied.append(f"{change} (from the checkpoint on)")
    if refused:
        raise ValueError(
            f"the checkpoint was written with other flags: {'; '.join(refused)}. Give the old "
            "ones to go on with that run; with the new ones start another, in a --run.dir of its "
            "own: its model can be that of a checkpoint (--ckpt.save_hf) or the final one"
        )
    return applied


def _meant(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **flags,
        **{flag: value for flag, value in _MEANT.items() if flag in flags and flags[flag] is None},
    }


def _ranks(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    """DeepSpeed's optimizer state is cut by rank, whatever nodes the ranks are on."""
    if now.get("ds.use_universal_ckpt"):
        return
    for model in ("actor", "critic"):
        names = [f"{model}.num_nodes", f"{model}.num_gpus_per_node"]
        if not {*names} <= before.keys() & now.keys():
            continue
        if model == "critic" and now.get("algo.advantage.estimator") != "gae":
            continue
        old, new = (flags[names[0]] * flags[names[1]] for flags in (before, now))
        if old != new:
            yield f"--{names[0]} x --{names[1]} {old} -> {new} ({_STATE}, cut by rank)"


def read_flags(checkpoints: Path) -> dict[str, Any]:
    """Of the start that wrote the checkpoints; none where they are of a version that kept none."""
    try:
        content = json.loads((checkpoints / FLAGS_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_flags(checkpoints: Path, flags: Mapping[str, Any]) -> None:
    """Keep the flags that the checkpoints of this start are written with."""
    write_text(checkpoints / FLAGS_FILE, json.dumps(_plain(flags), indent=1) + "\n")


def _plain(flags: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives them back: without secrets, lists for tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(redact(flags), default=str))
    return plain


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


class Finished(Exception):  # noqa: N818 - none
    """The run has been trained to its end: there is nothing to do."""


def prepare(flags: dict[str, Any], run: RunFolder | None) -> list[str]:
    """Choose the checkpoint to go on from, before Ray starts: `ckpt.resume_tag`, or None.

    Args:
        flags: every flag by its dotted name; edited in place.
        run: the run folder, held by this process; None without `--run.dir`.

    Returns:
        A line per decision for the user to read.

    Raises:
        ValueError: flags that the checkpoint does not allow, or no whole checkpoint.
        Finished: nothing to do.
    """
    folder = Path(flags["ckpt.path"])
    flags["ckpt.resume_tag"] = None
    notes = []
    if flags["ckpt.load_enable"]:
        notes += _go_on(flags, run, folder)
    if flags["ckpt.save_steps"] > 0 and not flags["ckpt.disable_ds"]:
        write_flags(folder, flags)
    return notes


def _go_on(flags: dict[str, Any], run: RunFolder | None, folder: Path) -> list[str]:
    checkpoints = Checkpoints(folder)
    tag = checkpoints.newest()
    before = read_flags(folder) or (run.last_flags() if run else {})
    finished = run.finished_episodes() if run else 0
    applied = changes(before, flags) if tag or finished else []
    episodes = flags["train.num_episodes"]
    if run and finished >= episodes:
        raise Finished(
            f"--run.dir {run.path} is finished: --train.num_episodes {finished} were trained and "
            "its model is written; a larger number goes on with it"
        )
    if run and finished and tag is None:
        raise ValueError(
            f"--run.dir {run.path} is a finished run that left no checkpoint in {folder} to go on "
            f"from to --train.num_episodes {episodes}: start another, in a folder of its own, "
            f"from its model: --actor.model_name_or_path {run.path / 'model'}"
        )
    flags["ckpt.resume_tag"] = tag
    if tag is not None:
        notes = [f"going on from checkpoint {tag} in {folder}", *applied]
    else:
        notes = [f"no checkpoint in {folder} yet: starting from the beginning"]
        if run and run.holds_records:
            notes[0] += f"; what {run.path} holds of an earlier start is moved to superseded/"
    return notes + checkpoints.clear_after(tag)
