"""What is not logged but follows from what is: throughput in tokens, time in environments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .runs import Run

TOKENS_PER_SECOND = "derived/tokens_per_second"
ENVIRONMENT_SHARE = "derived/environment_share"


def with_derived(run: Run) -> Run:
    """The run with these in its training lines, where their sources are logged."""
    return replace(run, train=[line | _derived(line) for line in run.train])


def _derived(line: dict[str, Any]) -> dict[str, float]:
    found = {}
    speed = line.get("scheduler/samples_per_second")
    length = line.get("rollout/response_length_mean")
    if speed is not None and length is not None:
        found[TOKENS_PER_SECOND] = speed * length
    environment, generation = line.get("timing/environment"), line.get("timing/generation")
    if environment and generation is not None:
        found[ENVIRONMENT_SHARE] = environment / (environment + generation)
    return found
