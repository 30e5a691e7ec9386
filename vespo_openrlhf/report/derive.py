"""What is not logged but follows from what is: throughput in tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .runs import Run

TOKENS_PER_SECOND = "derived/tokens_per_second"


def with_derived(run: Run) -> Run:
    """The run with `TOKENS_PER_SECOND` in its training lines, where its sources are logged."""
    return replace(run, train=[line | _derived(line) for line in run.train])


def _derived(line: dict[str, Any]) -> dict[str, float]:
    speed = line.get("scheduler/samples_per_second")
    length = line.get("rollout/response_length_mean")
    return {} if speed is None or length is None else {TOKENS_PER_SECOND: speed * length}
