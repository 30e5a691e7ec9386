"""The loss, its options, and what it asks of the samples."""

from __future__ import annotations

from typing import Any

from vespo_openrlhf import config
from vespo_openrlhf.bridge.loss import build_loss, uses_our_loss
from vespo_openrlhf.bridge.roles import Flags
from vespo_openrlhf.losses.kernel import KernelOptions
from vespo_openrlhf.losses.registry import option_defaults

#: OpenRLHF's defaults of flags that default to None here, so that what nobody gave can follow the
#: loss (`flags.complete`): its 0.2, say, is a clip no paper's GSPO or GRPO was trained with.
UPSTREAM_DEFAULTS: dict[str, Any] = {
    "actor.eps_clip": 0.2,
    "actor.loss_agg_mode": "token-mean",
    "actor.dual_clip": None,
}


def check_loss(flags: Flags) -> None:
    """The loss exists, with options that are its own."""
    if uses_our_loss(flags):
        build_loss(flags)
    elif flags["vespo.loss_options"]:
        raise ValueError(
            f"--vespo.loss_options are for the losses of this project, and with --vespo.anchor old "
            f"{flags['actor.policy_loss_type']} is OpenRLHF's own: leave them out, or the anchor"
        )


def check_loss_flags(flags: Flags) -> None:
    """A coefficient of one loss is not given to another in silence."""
    if not uses_our_loss(flags):
        return
    name = flags["actor.policy_loss_type"]
    try:
        # A user's own loss is given --vespo.loss_options alone.
        own = {} if ":" in name else option_defaults(name)
    except ValueError:  # for check_loss to say
        return
    given: dict[str, tuple[str, bool]] = {
        "actor.eps_clip": ("clip_low", _differs(flags, "actor.eps_clip")),
        "actor.eps_clip_low_high": ("clip_low", flags["actor.eps_clip_low_high"] is not None),
        "actor.dual_clip": ("dual_clip", _differs(flags, "actor.dual_clip")),
        "actor.loss_agg_mode": ("loss_agg_mode", _differs(flags, "actor.loss_agg_mode")),
        "vespo.anchor": ("anchor", flags["vespo.anchor"] != "rollout"),
    }
    kernel = {} if name == "vespo" else vars(config.read(KernelOptions, flags))
    for coefficient, default in option_defaults("vespo").items():
        if coefficient in kernel:
            given[f"vespo.{coefficient}"] = (coefficient, kernel[coefficient] != default)
    for flag, (option, asked) in given.items():
        if asked and option not in own:
            raise ValueError(
                f"--{flag} {flags[flag]} has no effect on --actor.policy_loss_type {name}: leave "
                "it out"
                + (", a loss of your own takes --vespo.loss_options" if ":" in name else "")
            )


def _differs(flags: Flags, flag: str) -> bool:
    """Whether it was given, and is not what OpenRLHF has without it."""
    return flags[flag] not in (None, UPSTREAM_DEFAULTS[flag])


def check_own_loss(flags: Flags) -> None:
    """OpenRLHF's loss: its clip and its correction as it takes them, and one where it is needed."""
    if uses_our_loss(flags):
        return
    clip = flags["actor.dual_clip"]
    if clip is not None and not clip > 1:
        raise ValueError(f"--actor.dual_clip is {clip:g}: set it above 1")
    if flags["actor.loss_agg_mode"] == "seq-mean-token-sum":
        raise ValueError(
            "--actor.loss_agg_mode seq-mean-token-sum: OpenRLHF's own loss, which --vespo.anchor "
            "old asks for, has no such mode: leave the anchor out, or take token-mean or "
            "seq-mean-token-mean"
        )
    prefix = "algo.advantage.is_correction"
    if flags["agent.weight"] == "turn":
        raise ValueError(
            "--agent.weight turn: OpenRLHF's own loss, which --vespo.anchor old asks for, knows no "
            "turns: leave the anchor out, or the weight"
        )
    level, mode, gating, threshold = (
        flags[f"{prefix}_{option}"] for option in ("level", "mode", "gating", "threshold")
    )
    if level == "off":
        if flags["train.async_enable"]:
            raise ValueError(
                f"--vespo.anchor old with --train.async_enable: OpenRLHF's own "
                f"{flags['actor.policy_loss_type']} starts from the trainer's recomputation, "
                "which knows nothing of the lag, and nothing corrects for it: add "
                f"--{prefix}_level token, or leave --vespo.anchor out"
            )
        if given := _given_of_correction(flags):
            raise ValueError(
                f"--{given[0]} has no effect with --{prefix}_level off: set the level, or leave it "
                "out"
            )
    elif mode == "clip" and (level == "seq" or gating != "ratio"):
        raise ValueError(
            f"--{prefix}_mode clip clamps the ratio of a token: it takes --{prefix}_level token "
            f"and --{prefix}_gating ratio"
        )
    elif gating != "ratio" and len(threshold) == 2 and threshold[0] > 0:
        raise ValueError(
            f"--{prefix}_gating {gating} is bounded from above alone: give --{prefix}_threshold "
            "one number"
        )


def check_correction(flags: Flags) -> None:
    """OpenRLHF's correction of the engine-to-trainer mismatch is a part of its own loss."""
    if not uses_our_loss(flags):
        return
    level = "algo.advantage.is_correction_level"
    given = _given_of_correction(flags)
    if flags[level] == "seq":
        given.insert(0, level)
    if given:
        raise ValueError(
            f"--{given[0]} asks for OpenRLHF's correction of the engine-to-trainer mismatch, which "
            "is a part of OpenRLHF's own loss; an importance weight anchored on the rollout "
            "log-probs contains it already, and it would count twice: leave the flag out, or take "
            "OpenRLHF's loss with --actor.policy_loss_type ppo --vespo.anchor old. VESPO with that "
            "anchor has a truncated correction inside W: --vespo.loss_options tis_cap=2"
        )


def _given_of_correction(flags: Flags) -> list[str]:
    """Its flags that are not as OpenRLHF has them by default, but for the level."""
    defaults = {"mode": "mask", "gating": "ratio", "threshold": [0.5, 5.0]}
    names = {f"algo.advantage.is_correction_{option}": d for option, d in defaults.items()}
    return [
        name
        for name, default in names.items()
        if (list(flags[name]) if isinstance(default, list) else flags[name]) != default
    ]


def check_rollout_distribution(flags: Flags) -> None:
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


def _has_weight(flags: Flags) -> bool:
    """Whether the loss builds an importance weight on the rollout log-probs."""
    try:
        return uses_our_loss(flags) and build_loss(flags).needs_rollout_log_probs
    except ValueError:  # for check_loss to say; nearly every loss does
        return True
