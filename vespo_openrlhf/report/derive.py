"""Throughput and idle shares of a run whose scheduler does not measure them, from its timings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .runs import Run

_TRAINER_STAGES = ("make_experience", "ppo_train", "broadcast")


def with_derived(run: Run) -> Run:
    """The run with `derived/` metrics in its training lines, where their sources are logged.

    - samples_per_second, tokens_per_second: over the time from one batch to the next.
    - trainer_idle: the share of it in none of the trainer's own stages.
    - engine_idle: the share of it not spent in generation.
    """
    return replace(run, train=[line | _derived(line) for line in run.train])


def _derived(line: dict[str, Any]) -> dict[str, float]:
    whole = line.get("timing/step_total")
    if not whole:
        return {}
    derived = {}
    samples = line.get("rollout/num_samples")
    if samples:
        derived["derived/samples_per_second"] = samples / whole
        length = line.get("rollout/response_length_mean")
        if length is not None:
            derived["derived/tokens_per_second"] = samples * length / whole
    stages = [f"timing/{stage}" for stage in _TRAINER_STAGES]
    if all(line.get(stage) is not None for stage in stages):
        busy = sum(line[stage] for stage in stages)
        derived["derived/trainer_idle"] = _share_left(busy, whole)
    generation = line.get("timing/generation")
    if generation is not None:
        derived["derived/engine_idle"] = _share_left(generation, whole)
    return derived


def _share_left(busy: float, whole: float) -> float:
    return min(1.0, max(0.0, 1.0 - busy / whole))
