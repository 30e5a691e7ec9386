"""What is compared, worked out from what a run recorded. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Rollout batches left out of the speed: the first two, in which caches fill and memory is first
#: touched, and the last, which an asynchronous loop trains while it generates nothing. So, in what
#: is left, as many batches are generated as trained.
FIRST_LEFT_OUT, LAST_LEFT_OUT = 2, 1
#: Rollout batches at the end whose mean reward is the final accuracy.
FINAL_BATCHES = 4
#: Rollout batches whose mean reward has to reach a share of it.
MEAN_OF = 3
SHARE = 0.9


@dataclass(frozen=True)
class Batch:
    """A trained rollout batch.

    Attributes:
        time: when its last update was done; seconds on any clock, of the run's `started` too.
        reward: its mean, which is the accuracy of the policy that sampled it.
        samples: trained.
    """

    time: float
    reward: float
    samples: int


@dataclass(frozen=True)
class Run:
    """What one peer recorded of one job.

    Attributes:
        started: when its process was started.
        began: when its first rollout batch began to be generated: the end of the start-up.
        batches: in order.
        peak_bytes: of memory; see `watch.Watch`.
        cpu: (time, CPU seconds used until then), in order, by all its processes.
    """

    started: float
    began: float
    batches: Sequence[Batch]
    peak_bytes: int
    cpu: Sequence[tuple[float, float]]


def _steady(batches: Sequence[Batch]) -> tuple[int, int]:
    """The batches whose ends are those of the steady part; see `FIRST_LEFT_OUT`.

    Raises:
        ValueError: nothing is between them.
    """
    first, last = FIRST_LEFT_OUT - 1, len(batches) - 1 - LAST_LEFT_OUT
    if last <= first:
        least = FIRST_LEFT_OUT + LAST_LEFT_OUT + 1
        raise ValueError(f"{len(batches)} rollout batches are too few to time: {least} at least")
    return first, last


def samples_per_second(batches: Sequence[Batch]) -> float:
    """Trained in the steady part.

    Raises:
        ValueError: there is none.
    """
    first, last = _steady(batches)
    samples = sum(batch.samples for batch in batches[first + 1 : last + 1])
    return samples / (batches[last].time - batches[first].time)


def cpu_seconds_per_batch(run: Run) -> float:
    """Of all processes, in the steady part: less in the hands of what else runs on the machine
    than the speed is.

    Raises:
        ValueError: there is none.
    """
    first, last = _steady(run.batches)
    used = [_at(run.cpu, run.batches[i].time) for i in (first, last)]
    return (used[1] - used[0]) / (last - first)


def _at(points: Sequence[tuple[float, float]], time: float) -> float:
    """The value at `time`, on the line between its neighbours; at the ends, theirs."""
    before, after = points[0], points[-1]
    for point in points:
        if point[0] > time:
            after = point
            break
        before = point
    if not before[0] < time < after[0]:
        return before[1] if time >= before[0] else points[0][1]
    share = (time - before[0]) / (after[0] - before[0])
    return before[1] + share * (after[1] - before[1])


def final_accuracy(batches: Sequence[Batch]) -> float:
    return statistics.mean(batch.reward for batch in batches[-FINAL_BATCHES:])


def time_to_share(batches: Sequence[Batch]) -> float:
    """When the mean reward of `MEAN_OF` batches in a row first was `SHARE` of the final accuracy:
    the time of the last of them."""
    wanted = SHARE * final_accuracy(batches)
    for last in range(min(MEAN_OF, len(batches)), len(batches) + 1):
        window = batches[max(0, last - MEAN_OF) : last]
        if statistics.mean(batch.reward for batch in window) >= wanted:
            return window[-1].time
    # A reward that falls to the end: the mean of the last few is what the final accuracy is.
    return batches[-1].time


def figures(run: Run) -> dict[str, Any]:
    """All that is reported of a run; times in seconds, memory in GiB."""
    reached = time_to_share(run.batches)
    return {
        "samples_per_second": round(samples_per_second(run.batches), 2),
        "seconds_to_90": round(reached - run.started, 1),
        "seconds_to_90_after_start": round(reached - run.began, 1),
        "start_seconds": round(run.began - run.started, 1),
        "cpu_seconds_per_batch": round(cpu_seconds_per_batch(run), 2),
        "peak_memory_gib": round(run.peak_bytes / 2**30, 2),
        "final_accuracy": round(final_accuracy(run.batches), 3),
        "first_accuracy": round(run.batches[0].reward, 3),
        "batches": len(run.batches),
    }


def compared(by_peer: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The peers' figures, and how many times as many samples ours trains as each: as the faster of
    a peer's ways, where it has two (`trl` and `trl_continuous`)."""
    result: dict[str, Any] = dict(by_peer)
    speed = {peer: figures["samples_per_second"] for peer, figures in by_peer.items()}
    for other in ("openrlhf", "trl"):
        ways = [value for peer, value in speed.items() if peer.startswith(other)]
        if ways and "ours" in speed:
            result[f"ours_over_{other}"] = round(speed["ours"] / max(ways), 3)
    return result


_COLUMNS = {
    "samples_per_second": "samples/s",
    "seconds_to_90": "s to 90 %",
    "seconds_to_90_after_start": "after start-up",
    "peak_memory_gib": "peak GiB",
    "final_accuracy": "final accuracy",
}
_TITLES = {
    "ours": "this project",
    "openrlhf": "OpenRLHF, asynchronous",
    "trl": "TRL",
    "trl_continuous": "TRL, continuous batching",
}


def table(by_size: Mapping[str, Mapping[str, Any]]) -> str:
    """Of what `compared` gives for each size; Markdown."""
    lines = [
        "| model | loop | " + " | ".join(_COLUMNS.values()) + " |",
        "| --- | --- |" + " --- |" * len(_COLUMNS),
    ]
    for size, results in by_size.items():
        for peer, title in _TITLES.items():
            if peer in results:
                cells = [_cell(name, results[peer][name]) for name in _COLUMNS]
                lines.append(f"| {size} | {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(name: str, value: float) -> str:
    if name == "final_accuracy":
        return f"{100 * value:.1f} %"
    return f"{value:.1f}" if name == "peak_memory_gib" or value < 100 else f"{value:.0f}"
