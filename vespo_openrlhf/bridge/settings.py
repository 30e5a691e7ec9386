"""Flags made consistent before anything starts: what a loss needs, what the machine allows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vespo_openrlhf import config, cpu
from vespo_openrlhf.bridge import prompts, rules
from vespo_openrlhf.bridge.checkpoints import Checkpoints
from vespo_openrlhf.bridge.loss import build_loss, uses_our_loss
from vespo_openrlhf.bridge.run_folder import RunFolder
from vespo_openrlhf.cpu import settings as cpu_settings
from vespo_openrlhf.data import checks
from vespo_openrlhf.losses.registry import option_defaults
from vespo_openrlhf.reward import options as reward_options
from vespo_openrlhf.scheduling import SchedulerConfig


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
    os.environ[reward_options.VARIABLE] = config.reward_options(flags).to_env()
    if cpu.is_active():
        notes.append("no GPU: the CPU stack is in place")
        notes.extend(cpu_settings.adapt(flags))
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
    notes.extend(_loss_settings(flags))
    if flags["actor.policy_loss_type"].rpartition(":")[0].endswith(".py"):
        # Workers have other working directories.
        flags["actor.policy_loss_type"] = os.path.abspath(flags["actor.policy_loss_type"])
    if flags["ds.lora.target_modules"] == ["all-linear"]:
        # The flag makes a list, in which peft would take the word for a module's name.
        flags["ds.lora.target_modules"] = "all-linear"
    if flags["run.dir"] is not None:
        _run_folder(flags)
    notes.extend(_reward(flags))
    return notes


def _loss_settings(flags: dict[str, Any]) -> list[str]:
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
    for flag, default in rules.UPSTREAM_DEFAULTS.items():
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
    for rule in FLAG_RULES:
        rule(flags)
    model = checks.check_model(flags["actor.model_name_or_path"])
    for model_rule in rules.MODEL_RULES:
        model_rule(flags, checks.text_config(model))
    label_problems = None
    reward = flags["reward.remote_url"]
    if reward is not None and reward.endswith(".py"):
        flags["reward.remote_url"] = os.path.abspath(reward)
        label_problems = checks.load_reward(reward).get("label_problems")
    columns = {"input_key": flags["data.input_key"], "label_key": flags["data.label_key"]}
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
    prompts.check_lengths(flags)


def check_run_folder(flags: Mapping[str, Any]) -> None:
    """A run that starts anew must not mix its records and checkpoints with those of another."""
    if flags["ckpt.load_enable"]:
        return
    saves = flags["ckpt.save_steps"] > 0 and not flags["ckpt.disable_ds"]
    tag = Checkpoints(Path(flags["ckpt.path"])).newest()
    run = RunFolder(Path(flags["run.dir"])) if flags["run.dir"] is not None else None
    if run and run.holds_records:
        if run.finished_episodes():
            advice = "finished; choose another folder"
        elif tag:
            advice = f"add --ckpt.load_enable to go on with it from {tag}, or choose another folder"
        else:
            advice = (
                "without a checkpoint to go on from; choose another folder (with "
                "--ckpt.load_enable it starts anew here, and the old records go to superseded/)"
            )
        raise ValueError(f"--run.dir {run.path} holds a run already: {advice}")
    if tag and saves:
        raise ValueError(
            f"--ckpt.path {flags['ckpt.path']} holds the checkpoints of a run already, the newest "
            f"{tag}: add --ckpt.load_enable to go on with it, or choose another folder"
        )


def scheduler_config(flags: Mapping[str, Any]) -> SchedulerConfig:
    """The scheduler's part of a run.

    Raises:
        ValueError: sizes that do not fit each other, or a lag bound that cannot be kept.
    """
    groups, n = flags["rollout.batch_size"], flags["rollout.n_samples_per_prompt"]
    size = flags["train.batch_size"]
    if size % n or (groups * n) % size:
        raise ValueError(
            f"--rollout.batch_size {groups} prompts x --rollout.n_samples_per_prompt {n} = "
            f"{groups * n} samples do not split into mini-batches of --train.batch_size {size} "
            f"that hold whole groups of {n}: make it a divisor of {groups * n} and a multiple of "
            f"{n}"
        )
    if flags["train.max_epochs"] > 1:
        raise ValueError(
            f"--train.max_epochs {flags['train.max_epochs']}: every sample is trained once, so "
            "that its lag is known; leave the flag out, and raise the updates per rollout batch "
            "with a smaller --train.batch_size"
        )
    if not flags["vllm.num_engines"]:
        raise ValueError("samples come from vLLM: set --vllm.num_engines to 1 or more")
    rollout = config.rollout_options(flags)
    lag, updates = config.lag_options(flags), groups * n // size
    takes_turns = flags["vllm.enable_sleep"] and flags["train.colocate_all"]
    if takes_turns and lag.sync_every not in (None, updates):
        raise ValueError(
            f"--lag.sync_every {lag.sync_every} with --vllm.enable_sleep: engines that sleep while "
            f"the trainer works are given its weights when a rollout batch is trained, after its "
            f"{updates} updates; leave the flag out"
        )
    if not flags["train.async_enable"]:
        lag = lag.synchronous(updates)
    return SchedulerConfig(
        prompts_per_batch=groups,
        samples_per_prompt=n,
        updates_per_batch=updates,
        in_flight_per_engine=rollout.in_flight_per_engine,
        lag=lag,
        partial_rollout=bool(flags["train.partial_rollout_enable"]),
        reward_timeout=rollout.reward_timeout,
    )


def check_loss(flags: dict[str, Any]) -> None:
    """The loss exists, with options that are its own."""
    if uses_our_loss(flags):
        build_loss(flags)
    elif flags["vespo.loss_options"]:
        raise ValueError(
            f"--vespo.loss_options are for the losses of this project, and with --vespo.anchor old "
            f"{flags['actor.policy_loss_type']} is OpenRLHF's own: leave them out, or the anchor"
        )


# Our shaping term -> OpenRLHF's flag for the same thing.
_SAME_TERM = {
    "overlong_max": "overlong_buffer_len",
    "truncation_penalty": "stop_properly_penalty_coef",
}


def check_reward_options(flags: dict[str, Any]) -> None:
    """Options must reach a reward, name files that are there, and count no term twice."""
    options = config.reward_options(flags)
    for ours, upstream in _SAME_TERM.items():
        if getattr(options, ours) and flags[f"reward.{upstream}"] is not None:
            raise ValueError(
                f"--reward.{ours} and --reward.{upstream} both shorten responses and would count "
                "twice: leave one of them out"
            )
    for source, target in options.sources.items():
        if not os.path.isfile(target.rpartition(":")[0]):
            raise ValueError(f"--reward.sources {source}={target}: there is no such file")
    reward = flags["reward.remote_url"] or ""
    if reward.endswith(".py") or flags["train.agent_func_path"]:
        return
    defaults = reward_options.RewardOptions()
    if options != defaults:
        changed = [n for n, v in vars(options).items() if v != getattr(defaults, n)]
        raise ValueError(
            f"--reward.{changed[0]} is an option of reward/math_reward.py and of your own "
            "make_reward_func, and --reward.remote_url names no such file"
        )


def check_correction(flags: dict[str, Any]) -> None:
    """OpenRLHF's correction of the engine-to-trainer mismatch is a part of its own loss."""
    if not uses_our_loss(flags):
        return
    asked_for = {
        "level": flags["algo.advantage.is_correction_level"] == "seq",
        "mode": flags["algo.advantage.is_correction_mode"] != "mask",
        "gating": flags["algo.advantage.is_correction_gating"] != "ratio",
        "threshold": list(flags["algo.advantage.is_correction_threshold"]) != [0.5, 5.0],
    }
    for option, asked in asked_for.items():
        if asked:
            raise ValueError(
                f"--algo.advantage.is_correction_{option} asks for OpenRLHF's correction of the "
                "engine-to-trainer mismatch, which is a part of OpenRLHF's own loss; an importance "
                "weight anchored on the rollout log-probs contains it already, and it would count "
                "twice: leave the flag out, or take OpenRLHF's loss with --actor.policy_loss_type "
                "ppo --vespo.anchor old. VESPO with that anchor has a truncated correction inside "
                "W: --vespo.loss_options tis_cap=2"
            )


def check_rollout_distribution(flags: dict[str, Any]) -> None:
    """The behaviour policy must be the engine's full distribution, or W is biased."""
    if not _has_weight(flags):
        return
    if flags["rollout.top_p"] != 1.0:
        raise ValueError(
            f"--rollout.top_p is {flags['rollout.top_p']:g}: sampling from a truncated "
            "distribution biases the importance weight; set --rollout.top_p 1.0"
        )
    if flags["rollout.temperature"] <= 0:
        raise ValueError(
            f"--rollout.temperature is {flags['rollout.temperature']:g}: greedy samples have no "
            "importance weight; set it above 0, as a rule to 1.0"
        )


def _has_weight(flags: dict[str, Any]) -> bool:
    """Whether the loss builds an importance weight on the rollout log-probs."""
    try:
        return uses_our_loss(flags) and build_loss(flags).needs_rollout_log_probs
    except ValueError:  # for check_loss to say; nearly every loss does
        return True


#: What training refuses by the flags alone, and `check` too: one fault a rule. Each raises
#: ValueError, which names the flag, what is wrong with it, and what to write instead. The others
#: take what the first has seen.
FLAG_RULES: tuple[Callable[[dict[str, Any]], object], ...] = (
    rules.check_sizes,
    config.kernel_options,
    config.lag_options,
    config.rollout_options,
    config.engine_options,
    rules.check_unsupported,
    rules.check_accumulation,
    rules.check_ema,
    rules.check_adapters,
    check_reward_options,
    rules.check_reward_given,
    rules.check_effect,
    check_loss,
    rules.check_loss_flags,
    rules.check_own_loss,
    check_rollout_distribution,
    check_correction,
    rules.check_groups,
    scheduler_config,
    rules.check_synchronous,
    rules.check_kv,
    rules.check_target_ess,
    rules.check_lengths,
    rules.check_ranks,
    rules.check_update,
    rules.check_forward,
    rules.check_places,
    rules.check_mixture,
    check_run_folder,
)
