"""What a run writes about its samples and keeps for a resume, beside OpenRLHF's checkpoints."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from vespo_openrlhf.files import written_whole
from vespo_openrlhf.scheduling import Group, TrainStep

logger = logging.getLogger(__name__)


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


class BufferedRollouts:
    """The rollouts of complete groups that no batch has taken yet, saved with each checkpoint.

    Args:
        checkpoints: OpenRLHF's checkpoint folder; ours is a folder beside its own.
    """

    def __init__(self, checkpoints: Path) -> None:
        self._folder = checkpoints / "rollouts"

    def save(self, tag: str, rollouts: Mapping[int, list[Any]]) -> None:
        """Write those of the checkpoint `tag`; done before the checkpoint itself is."""
        with written_whole(self._folder / f"{tag}.pt") as draft:
            torch.save(dict(rollouts), draft)

    def load(self, tag: str) -> dict[int, list[Any]]:
        """Those of the checkpoint `tag`; none where the file is gone, and they are made anew."""
        path = self._folder / f"{tag}.pt"
        if not path.exists():
            logging.getLogger(__name__).warning(
                "%s is not on this node, %s: the groups that were complete are made anew. All "
                "nodes must share the run folder and the checkpoints",
                *(path, platform.node()),
            )
            return {}
        # Our own file, with OpenRLHF's classes in it.
        loaded: dict[int, list[Any]] = torch.load(path, weights_only=False)
        return loaded
