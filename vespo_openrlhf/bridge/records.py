"""`samples.jsonl`: what sampled each group that is trained, and when it is used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vespo_openrlhf.scheduling import Group, TrainStep


def stamps(step: TrainStep) -> Iterator[dict[str, Any]]:
    """One record per group that the step trains: what sampled it, and when it is used.

    `spans` has for each sample its (version, tokens) in order, `requests` the ids the engine knew
    it by, `update` the version of the policy that is trained with it; the times are seconds on a
    clock of the run's own.
    """
    batch = step.batch
    for j in range(step.first, step.last):
        for group in batch.mini_batches[j]:
            yield {"batch": batch.index, "update": batch.version + j, **_stamp(group)}


def _stamp(group: Group) -> dict[str, Any]:
    return {
        "epoch": group.prompt.epoch,
        "row": group.prompt.row,
        "prompt": group.prompt.name,
        "ticket": group.ticket,
        "engine": group.engine,
        "dispatched_version": group.dispatched_version,
        "completed_version": max(spans[-1][0] for spans in group.spans),
        "dispatched_at": group.dispatched_at,
        "generated_at": group.generated_at,
        "spans": group.spans,
        "rewards": group.rewards,
        "requests": [rollout and rollout.request_ids for rollout in group.payloads],
    }


def append_lines(path: Path, records: Iterator[dict[str, Any]]) -> None:
    """Add records to a file of JSON lines; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
