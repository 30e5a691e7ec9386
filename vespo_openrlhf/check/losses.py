"""Rules that training applies to its own options, applied without starting it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from vespo_openrlhf import config
from vespo_openrlhf.bridge import settings
from vespo_openrlhf.bridge.loss import build_loss, uses_our_loss
from vespo_openrlhf.check.findings import Finding, error


def check_options(flags: dict[str, Any]) -> Iterator[Finding]:
    """The kernel, the lag, the reward, the loss and its sampling; every fault."""
    checks: list[Callable[[dict[str, Any]], object]] = [
        config.kernel_options,
        config.lag_options,
        settings.check_reward_options,
        build_loss,
        _check_distribution,
        _check_correction,
    ]
    found: dict[str, None] = {}
    for check in checks:
        try:
            check(flags)
        except ValueError as refused:
            found[str(refused)] = None
    yield from map(error, found)


def _needs_rollout_log_probs(flags: dict[str, Any]) -> bool:
    try:
        return uses_our_loss(flags) and build_loss(flags).needs_rollout_log_probs
    except ValueError:  # found by another rule; nearly every loss does
        return True


def _check_distribution(flags: dict[str, Any]) -> None:
    if _needs_rollout_log_probs(flags):
        settings.check_rollout_distribution(flags)


def _check_correction(flags: dict[str, Any]) -> None:
    if _needs_rollout_log_probs(flags):
        settings.check_correction(flags)


def reads_old_log_probs(flags: dict[str, Any]) -> bool:
    """Whether training recomputes log-probs in a forward pass of its own."""
    if not uses_our_loss(flags) or flags["vespo.recompute_old_log_probs"]:
        return True
    return flags["algo.kl.init_coef"] > 0 or build_loss(flags).reads_old_log_probs
