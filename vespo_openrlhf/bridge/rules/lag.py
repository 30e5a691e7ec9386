"""Options of the lag that have a say only in some runs."""

from __future__ import annotations

from vespo_openrlhf import config
from vespo_openrlhf.bridge.loss import uses_our_loss
from vespo_openrlhf.bridge.roles import Flags
from vespo_openrlhf.scheduling import LagOptions


def check_synchronous(flags: Flags) -> None:
    """Options that have a say only where generation and training overlap."""
    if flags["train.async_enable"]:
        return
    if flags["train.partial_rollout_enable"]:
        raise ValueError(
            "--train.partial_rollout_enable requires --train.async_enable: add it, or leave this "
            "flag out"
        )
    lag = config.read(LagOptions, flags)
    samples = flags["rollout.batch_size"] * flags["rollout.n_samples_per_prompt"]
    least = lag.synchronous(max(samples // flags["train.batch_size"], 1)).max
    assert least is not None
    given = {
        "max": lag.max is not None and lag.max > least,
        "on_stale": lag.on_stale != "wait",
        "target_ess": lag.target_ess is not None,
        "policy": lag.policy != LagOptions.policy,
    }
    for option, asked in given.items():
        if asked:
            raise ValueError(
                f"--lag.{option} {getattr(lag, option)} has no effect without "
                f"--train.async_enable: no token is then older than {least} updates; add that "
                "flag, or leave this one out"
            )


def check_kv(flags: Flags) -> None:
    """Where engines finish what they have before they take new weights, no KV cache outlives
    those that made it."""
    if flags["lag.kv"] == "keep" and not flags["train.partial_rollout_enable"]:
        raise ValueError(
            "--lag.kv keep has no effect without --train.partial_rollout_enable: no response is "
            "unfinished when an engine takes new weights; add that flag, or leave this one out"
        )


def check_target_ess(flags: Flags) -> None:
    """The working lag is steered by importance weights that the loss reports."""
    target = flags["lag.target_ess"]
    if target is not None and not uses_our_loss(flags):
        raise ValueError(
            f"--lag.target_ess {target:g} steers the lag by the importance weights' effective "
            f"sample size, and --actor.policy_loss_type {flags['actor.policy_loss_type']} reports "
            "none with --vespo.anchor old: leave one of the flags out"
        )
