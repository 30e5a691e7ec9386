"""A cluster's numbers from a run that was really trained, so that the simulator can be held to it.

Reads what a training run leaves in its folder: config.json, metrics.jsonl and samples.jsonl.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate
from pathlib import Path
from statistics import fmean, median
from typing import Any

from vespo_openrlhf.files import read_json_lines
from vespo_openrlhf.scheduling.lag import LagBudget, LagOptions

from .simulation import Setup
from .workload import ClusterConfig, Lengths

#: Batches left out at both ends: start-up, and engines that run empty.
WARM_UP = 2
#: Share of an episode in its environment, up to which it is taken for decoding.
NEGLIGIBLE = 0.05


@dataclass(frozen=True)
class MeasuredRun:
    """A run as the simulator would set it up, and what it came to.

    Attributes:
        setup: its batches, and a cluster with the speeds that were measured.
        lag: its bound and what went with it.
        partial_rollout: whether weights changed in mid-response.
        samples_per_second: of the batches that were measured.
        batches: how many those are.
    """

    setup: Setup
    lag: LagOptions
    partial_rollout: bool
    samples_per_second: float
    batches: int


def read_run(folder: Path) -> MeasuredRun:
    """Measure a finished run.

    Raises:
        ValueError: the folder holds no run of this scheduler, one that is too short, or one whose
            engines' speed its environment hides.
    """
    try:
        flags = json.loads((folder / "config.json").read_text())
        steps = read_json_lines(folder / "metrics.jsonl")
        groups = read_json_lines(folder / "samples.jsonl")
    except OSError as error:
        raise ValueError(f"{folder} holds no finished run (--run.dir): {error}") from error
    steps = [step for step in steps if step.get("kind") == "train" and "timing/publish" in step]
    prompts, n = flags["rollout.batch_size"], flags["rollout.n_samples_per_prompt"]
    updates = prompts * n // flags["train.batch_size"]
    # A run of an earlier version has no flag for kv, nor for policy.
    names = [option.name for option in fields(LagOptions) if f"lag.{option.name}" in flags]
    lag = LagOptions(**{name: flags[f"lag.{name}"] for name in names})
    if not flags["train.async_enable"]:
        lag = lag.synchronous(updates)
    # What is trained at the end was generated as long before as the lag allowed; the engines are
    # idle after.
    limit = max((step["lag/max"] for step in steps), default=0)
    if lag.policy == LagOptions.policy:
        limit = LagBudget.from_options(lag, updates, prompts // updates).limit
    drain = -(-int(limit) // updates)
    steps = steps[WARM_UP : len(steps) - drain]
    if len(steps) < 4:
        raise ValueError(
            f"{folder}: {len(steps)} batches are left to measure after {WARM_UP} of warm-up and "
            f"{drain} in which the engines run empty; make the run at least 4 longer"
        )
    away, on_engine = (
        fmean(step.get(f"timing/{stage}", 0.0) for step in steps)
        for stage in ("environment", "generation")
    )
    if away > NEGLIGIBLE * (away + on_engine):
        raise ValueError(
            f"{folder}: the environment takes {away:.3g} s of an episode, and the records do not "
            "say when, so the engines' speed cannot be told from them; start from a preset, with "
            "--turns and --environment-seconds"
        )
    # While the engines start up they decode slowly, with more sequences than ever after.
    steady = [group for group in groups if group["batch"] >= WARM_UP]
    lengths = tuple(max(1, sum(c for _, c in spans)) for g in steady for spans in g["spans"])
    seconds = [prompts * n / step["scheduler/samples_per_second"] for step in steps]
    step_seconds, per_sequence = fit_decode_step(steady, beside=groups)
    tokens = prompts * n * fmean(lengths)
    cluster = ClusterConfig(
        engines=flags["vllm.num_engines"],
        max_sequences=flags["rollout.in_flight_per_engine"],
        step_seconds=step_seconds,
        step_seconds_per_sequence=per_sequence,
        lengths=Lengths(median(lengths), 0.0, max(lengths), measured=lengths),
        train_tokens_per_second=tokens / fmean(step["timing/train"] for step in steps),
        publish_seconds=fmean(step["timing/publish"] for step in steps)
        * (lag.sync_every or updates)
        / updates,
        prefill_tokens_per_second=_prefill_speed(steps),
        reward_seconds=fmean(step["timing/reward"] for step in steps),
    )
    # Nothing where no experts are replayed.
    routing = fmean(step.get("routing/bytes", 0.0) for step in steps) / tokens
    return MeasuredRun(
        Setup(cluster, prompts, n, updates, flags["rollout.in_flight_per_engine"], routing),
        lag,
        bool(flags["train.partial_rollout_enable"]),
        len(steps) * prompts * n / sum(seconds),
        len(steps),
    )


def _prefill_speed(steps: Sequence[dict[str, Any]]) -> float | None:
    """Of the KV caches that were computed again; None where the run reports none."""
    tokens, seconds = (
        sum(step.get(f"recompute/{name}", 0.0) for step in steps) for name in ("tokens", "seconds")
    )
    return tokens / seconds if tokens and seconds else None


def fit_decode_step(
    groups: Sequence[dict[str, Any]], beside: Sequence[dict[str, Any]]
) -> tuple[float, float]:
    """Seconds of a decode step, and seconds more per active sequence, by least squares.

    A response of T tokens that took d seconds beside a other sequences on average has
    d = T (s + c a); both unknowns follow where the load was not always the same, and otherwise
    all of it is in s.

    Args:
        groups: records of samples.jsonl, to be fitted.
        beside: all that the engines had, these among them.
    """
    loads = {engine: _Load(intervals) for engine, intervals in _intervals(beside).items()}
    tt = ta = aa = dt = da = 0.0  # the normal equations of d on T and T a
    for engine, of_engine in _intervals(groups).items():
        load = loads[engine]
        for begin, end, tokens in of_engine:
            active = load.mean(begin, end)
            tt += tokens**2
            ta += tokens**2 * active
            aa += (tokens * active) ** 2
            dt += (end - begin) * tokens
            da += (end - begin) * tokens * active
    determinant = tt * aa - ta**2
    if determinant > 1e-6 * tt * aa:
        step, per_sequence = (
            (dt * aa - da * ta) / determinant,
            (da * tt - dt * ta) / determinant,
        )
        if step > 0 and per_sequence >= 0:
            return step, per_sequence
        if step <= 0:  # the load explains it all
            return 1e-9, da / aa
    return dt / tt, 0.0


def _intervals(groups: Sequence[dict[str, Any]]) -> dict[str, list[tuple[float, float, int]]]:
    """When each response was on which engine, and its tokens."""
    intervals: dict[str, list[tuple[float, float, int]]] = {}
    for group in groups:
        begin = group["dispatched_at"]
        for end, spans in zip(group["generated_at"], group["spans"], strict=True):
            tokens = sum(count for _, count in spans)
            if tokens and end > begin:
                intervals.setdefault(group["engine"], []).append((begin, end, tokens))
    return intervals


class _Load:
    """How many sequences an engine had over time."""

    def __init__(self, intervals: Sequence[tuple[float, float, int]]) -> None:
        changes = sorted([(b, 1) for b, _, _ in intervals] + [(e, -1) for _, e, _ in intervals])
        self._times = [time for time, _ in changes]
        self._active = list(accumulate(change for _, change in changes))
        self._integral = [0.0]
        for i in range(1, len(changes)):
            passed = self._times[i] - self._times[i - 1]
            self._integral.append(self._integral[-1] + passed * self._active[i - 1])

    def mean(self, begin: float, end: float) -> float:
        return (self._until(end) - self._until(begin)) / (end - begin)

    def _until(self, time: float) -> float:
        i = bisect_right(self._times, time) - 1
        return self._integral[i] + (time - self._times[i]) * self._active[i]
