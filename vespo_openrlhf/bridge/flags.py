"""Flags made consistent before anything starts: what a loss needs, what the machine allows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vespo_openrlhf import config, cpu, models
from vespo_openrlhf.bridge import rules
from vespo_openrlhf.bridge.loss import uses_our_loss
from vespo_openrlhf.bridge.roles import teacher_model
from vespo_openrlhf.bridge.rules.distill import check_teacher
from vespo_openrlhf.bridge.rules.loss import UPSTREAM_DEFAULTS
from vespo_openrlhf.bridge.run import dataset, recordings
from vespo_openrlhf.cpu.flags import adapt
from vespo_openrlhf.data import checks
from vespo_openrlhf.losses.registry import option_defaults
from vespo_openrlhf.reward import no_reward
from vespo_openrlhf.reward import options as reward_options


def flatten(args: SimpleNamespace, prefix: str = "") -> dict[str, Any]:
    """OpenRLHF's nested arguments as flags by their dotted names: the inverse of `hierarchize`."""
    flags: dict[str, Any] = {}
    for name, value in vars(args).items():
        if isinstance(value, SimpleNamespace):
            flags |= flatten(value, f"{prefix}{name}.")
        else:
            flags[f"{prefix}{name}"] = value
    return flags


def resolve(flags: dict[str, Any]) -> list[str]:
    """Make flags and environment those of a run on this machine.

    Args:
        flags: every flag by its dotted name; edited in place.

    Returns:
        One line per change for the user to read.

    Raises:
        ValueError: an option is out of range, or asks for what this machine cannot do.
    """
    notes = complete(flags)
    # For this process, and every Ray process started from it.
    os.environ[reward_options.VARIABLE] = config.read(reward_options.RewardOptions, flags).to_env()
    if cpu.is_active():
        notes.append("no GPU: the CPU stack is in place")
        notes.extend(adapt(flags))
    return notes


def complete(flags: dict[str, Any]) -> list[str]:
    """Set the flags that follow from others, whatever the machine; see `resolve`."""
    notes = []
    if uses_our_loss(flags) and flags["algo.advantage.is_correction_level"] == "off":
        # Also for a loss that reads none: log W says what staleness does to it.
        flags["algo.advantage.is_correction_level"] = "token"
        notes.append(
            "--algo.advantage.is_correction_level off -> token (so that the engine returns the "
            f"log-probs it sampled with; --actor.policy_loss_type {flags['actor.policy_loss_type']}"
            " builds the importance weight on them, OpenRLHF's own correction is not applied)"
        )
    notes.extend(_loss_flags(flags))
    for flag in ("actor.policy_loss_type", "lag.policy"):
        if flags[flag].rpartition(":")[0].endswith(".py"):
            # Workers have other working directories.
            flags[flag] = os.path.abspath(flags[flag])
    if flags["ds.lora.target_modules"] == ["all-linear"]:
        # The flag makes a list, in which peft would take the word for a module's name.
        flags["ds.lora.target_modules"] = "all-linear"
    if flags["run.dir"] is not None:
        _run_folder(flags)
    if flags["offline.data"]:
        notes.extend(_offline(flags))
    notes.extend(_teacher(flags))
    notes.extend(_reward(flags))
    return notes


def _teacher(flags: dict[str, Any]) -> list[str]:
    """A teacher alone needs no reward, but OpenRLHF does. Evaluations need one of their own."""
    if teacher_model(flags) and os.path.isdir(flags["distill.teacher"]):
        flags["distill.teacher"] = os.path.abspath(flags["distill.teacher"])
    alone = flags["distill.teacher"] and flags["distill.coef"] >= 1
    if not alone or flags["eval.dataset"] or _is_scored(flags):
        return []
    flags["reward.remote_url"] = no_reward.__file__
    return ["--reward.remote_url -> reward/no_reward.py (the teacher alone says what is good)"]


def _is_scored(flags: Mapping[str, Any]) -> bool:
    """Whether anything gives a reward."""
    given = ("reward.remote_url", "reward.model_name_or_path", "train.agent_func_path")
    return any(flags[flag] for flag in given)


def _offline(flags: dict[str, Any]) -> list[str]:
    """No engines but for evaluations, and no reward but the recorded one."""
    flags["offline.data"] = [os.path.abspath(path) for path in flags["offline.data"]]
    notes, epochs = [], max(flags["offline.epochs"], 1)  # below that for its own check to refuse
    if flags["train.num_episodes"] not in (1, epochs):
        notes.append(f"--train.num_episodes -> {epochs} (--offline.epochs says)")
    flags["train.num_episodes"] = epochs
    if not flags["eval.dataset"]:
        if flags["reward.remote_url"]:
            notes.append("--reward.remote_url is not asked (rewards are recorded)")
        if flags["train.agent_func_path"]:
            notes.append("--train.agent_func_path is not called (episodes are recorded)")
        if not _is_scored(flags):
            flags["reward.remote_url"] = "recorded"  # or OpenRLHF makes place for a reward model
        if flags["vllm.num_engines"]:
            notes.append(
                f"--vllm.num_engines {flags['vllm.num_engines']} -> 0 (samples are read from disk, "
                "and nothing is evaluated)"
            )
        flags["vllm.num_engines"] = 0
    if flags["data.prompt_dataset"]:
        notes.append("--data.prompt_dataset is not read (samples are read from disk)")
        flags["data.prompt_dataset"] = None
    return notes


def _loss_flags(flags: dict[str, Any]) -> list[str]:
    """Give the loss what it was published with, where the user says nothing.

    That is what its function has as defaults. OpenRLHF has one default for all losses, and
    without this writes its clip over theirs between here and the workers; its own ppo and gspo
    (--vespo.anchor old) know no other way to get them.
    """
    name = flags["actor.policy_loss_type"]
    try:
        own = {} if ":" in name else option_defaults(name)
    except ValueError:  # for check_loss to say
        own = {}
    taken = {}
    no_clip = flags["actor.eps_clip"] is None and flags["actor.eps_clip_low_high"] is None
    if no_clip and "clip_low" in own:
        taken["actor.eps_clip_low_high"] = [own["clip_low"], own["clip_high"]]
    for option in ("loss_agg_mode", "dual_clip"):
        if flags[f"actor.{option}"] is None and option in own:
            taken[f"actor.{option}"] = own[option]
    for flag, default in UPSTREAM_DEFAULTS.items():
        if flags[flag] is None:
            flags[flag] = default
    changed = {flag: value for flag, value in taken.items() if flags[flag] != value}
    flags |= taken
    return [
        f"--{flag} -> {' '.join(map(str, value)) if isinstance(value, list) else value} (what "
        f"{name} was published with, and not OpenRLHF's default)"
        for flag, value in changed.items()
    ]


def _run_folder(flags: dict[str, Any]) -> None:
    """Send what OpenRLHF writes to the run folder, where the user has not said otherwise."""
    run_dir = Path(flags["run.dir"]).resolve()
    flags["run.dir"] = str(run_dir)
    upstream_defaults = {
        "ckpt.output_dir": ("./ckpt", "model"),
        "ckpt.path": ("./ckpt/checkpoints_ppo_ray", "checkpoints"),
        "logger.tensorboard_dir": (None, "tensorboard"),
    }
    for flag, (default, folder) in upstream_defaults.items():
        if flags[flag] == default:
            flags[flag] = str(run_dir / folder)


def _reward(flags: dict[str, Any]) -> list[str]:
    """Paths become absolute: workers have other working directories."""
    notes = []
    flags["reward.sources"] = [
        f"{name}={os.path.abspath(target)}"
        for name, target in (pair.split("=", 1) for pair in flags["reward.sources"])
    ]
    if flags["reward.overlong_max"] and not flags["reward.tokenizer"]:
        flags["reward.tokenizer"] = flags["actor.model_name_or_path"] or ""
        notes.append(f"--reward.tokenizer -> {flags['reward.tokenizer']} (the policy's own)")
    if os.path.isdir(flags["reward.tokenizer"]):
        flags["reward.tokenizer"] = os.path.abspath(flags["reward.tokenizer"])
    return notes


def check(flags: dict[str, Any]) -> None:
    """Refuse what cannot work, before Ray starts.

    Raises:
        ValueError: names the flag, what is wrong with it, and what to write instead.
    """
    for rule in rules.FLAG_RULES:
        rule(flags)
    model = models.check_model(flags["actor.model_name_or_path"])
    for model_rule in rules.MODEL_RULES:
        model_rule(flags, models.text_config(model))
    label_problems = None
    reward = flags["reward.remote_url"]
    if reward is not None and reward.endswith(".py"):
        flags["reward.remote_url"] = os.path.abspath(reward)
        label_problems = checks.load_reward(reward).get("label_problems")
    columns = {"input_key": flags["data.input_key"], "label_key": flags["data.label_key"]}
    check_teacher(flags)
    if flags["offline.data"]:
        recordings.check(flags)
    else:
        checks.check_prompts(
            flags["data.prompt_dataset"],
            split=flags["data.prompt_split"],
            label_problems=label_problems,
            **columns,
        )
    if flags["eval.dataset"]:
        checks.check_prompts(
            flags["eval.dataset"], split=flags["eval.split"], flag="--eval.dataset", **columns
        )
    dataset.check_lengths(flags)
