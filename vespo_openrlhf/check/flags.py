"""What training refuses by its flags, and what its loss reads, without starting it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vespo_openrlhf import models
from vespo_openrlhf.bridge import rules
from vespo_openrlhf.bridge.flags import complete
from vespo_openrlhf.bridge.loss import skips_old_log_probs
from vespo_openrlhf.check.findings import Finding, error


def check_options(flags: dict[str, Any]) -> Iterator[Finding]:
    """Set the flags that follow from others, as training does; then every fault it would refuse.

    Args:
        flags: as they were parsed, before OpenRLHF's own validation; edited in place.
    """
    found: dict[str, None] = {}
    for rule in (complete, *rules.FLAG_RULES):
        try:
            rule(flags)
        except ValueError as refused:
            found[str(refused)] = None
            if rule is rules.sizes.check_sizes:
                break
    yield from map(error, found)


def check_model(flags: dict[str, Any], config: Mapping[str, Any]) -> Iterator[Finding]:
    """Every fault that training would find with the model's config.json."""
    for rule in rules.MODEL_RULES:
        try:
            rule(flags, models.text_config(config))
        except ValueError as refused:
            yield error(str(refused))


def reads_old_log_probs(flags: dict[str, Any]) -> bool:
    """Whether training recomputes log-probs in a forward pass of its own."""
    try:
        return not skips_old_log_probs(flags)
    except ValueError:  # an unknown loss, which has been found already
        return True
