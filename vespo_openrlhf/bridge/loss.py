"""Which loss the flags select, whose it is, and what it needs to be given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vespo_openrlhf import config
from vespo_openrlhf.bridge.roles import teacher_model
from vespo_openrlhf.losses.distillation import DistillOptions
from vespo_openrlhf.losses.kernel import KernelOptions
from vespo_openrlhf.losses.registry import PolicyLoss, get_policy_loss, option_defaults

#: Losses that OpenRLHF brings itself.
UPSTREAM_LOSSES = ("ppo", "gspo")


def uses_our_loss(flags: Mapping[str, Any]) -> bool:
    """Whether the run trains with a loss of this project rather than OpenRLHF's own.

    `ppo` and `gspo` exist in both. Anchored on the rollout log-probs, like every loss of ours,
    they are ours; with `--vespo.anchor old` they are OpenRLHF's, with all of its options.
    """
    return flags["actor.policy_loss_type"] not in UPSTREAM_LOSSES or flags["vespo.anchor"] != "old"


def build_loss(flags: Mapping[str, Any]) -> PolicyLoss:
    """The loss that the flags (dotted names) select, with its options.

    Raises:
        ValueError: the name or an option of the loss is not one we know, or out of range.
    """
    name = flags["actor.policy_loss_type"]
    known = option_defaults(name)
    options = config.loss_options(flags, known)
    if ":" in name:
        return get_policy_loss(name, **options)
    if name == "vespo":
        options |= vars(config.read(KernelOptions, flags))
    elif flags["vespo.length_normalisation"] != "none" and "length_normalisation" not in known:
        raise ValueError(
            f"--vespo.length_normalisation {flags['vespo.length_normalisation']} is for vespo and "
            f"topr, and {name} knows nothing of it: leave the flag out"
        )
    shared = {
        "loss_agg_mode": flags["actor.loss_agg_mode"],
        "anchor": flags["vespo.anchor"],
        "length_normalisation": flags["vespo.length_normalisation"],
        "dual_clip": flags["actor.dual_clip"],
    }
    if flags["actor.eps_clip_low_high"] is not None:
        shared |= dict(
            zip(("clip_low", "clip_high"), flags["actor.eps_clip_low_high"], strict=True)
        )
    options |= {
        option: value for option, value in shared.items() if option in known and value is not None
    }
    return get_policy_loss(name, **options)


def skips_old_log_probs(flags: Mapping[str, Any]) -> bool:
    """Whether recomputing `old_log_probs` before training can be left out.

    OpenRLHF's actor recomputes them for every rollout batch. They are needed by a loss that reads
    them and by a KL term (which compares them with the reference model's), and otherwise only
    by metrics. `--vespo.recompute_old_log_probs` brings them back for the metrics' sake.
    """
    return (
        uses_our_loss(flags)
        and not flags["vespo.recompute_old_log_probs"]
        and not build_loss(flags).reads_old_log_probs
        and (not flags["algo.kl.init_coef"] > 0 or teacher_model(flags) is not None)
    )


def teaches_fully(flags: Mapping[str, Any]) -> bool:
    """Whether the whole distribution of a teacher is compared."""
    return flags["distill.estimator"] == "full" and teacher_model(flags) is not None


def distillation(flags: Mapping[str, Any]) -> DistillOptions | None:
    """What a teacher has to say in the run; None where there is none.

    Raises:
        ValueError: an option is out of range.
    """
    options = config.read(DistillOptions, flags)
    return options if options.teacher else None
