"""What a run writes about its samples and keeps for a resume, beside OpenRLHF's checkpoints."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from vespo_openrlhf.scheduling import Group, TrainStep

SAMPLES_FILE = "samples.jsonl"
PROMPTS_FILE = "prompts.json"


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


class JsonLines:
    """A file of records of which each has a version or a step, so that a resume can cut it.

    Args:
        path: the file; its folder is made.
        key: the field that counts; records at or beyond `resume_at`'s are cut.
    """

    def __init__(self, path: Path, key: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._key = key

    def resume_at(self, count: int) -> None:
        """Drop what a killed run wrote after the checkpoint that is now loaded."""
        if not self._path.exists():
            return
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # the line that the kill tore
                continue
            if record.get(self._key, 0) < count:
                kept.append(line)
        write_atomically(self._path, "".join(f"{line}\n" for line in kept))

    def append(self, records: Iterator[dict[str, Any]]) -> None:
        """Add records."""
        with open(self._path, "a", encoding="utf-8") as file:
            file.writelines(json.dumps(record) + "\n" for record in records)


class BufferedRollouts:
    """The rollouts of complete groups that no batch has taken yet, saved with each checkpoint.

    Args:
        checkpoints: OpenRLHF's checkpoint folder; ours is a folder beside its own.
    """

    def __init__(self, checkpoints: Path) -> None:
        self._folder = checkpoints / "rollouts"
        self._actor = checkpoints / "_actor"

    def save(self, tag: str, rollouts: Mapping[int, list[Any]]) -> None:
        """Write those of the checkpoint `tag`; done before the checkpoint itself is."""
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._folder / f"{tag}.pt"
        torch.save(dict(rollouts), target.with_suffix(".new"))
        os.replace(target.with_suffix(".new"), target)

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

    def prune(self) -> None:
        """Forget those whose checkpoint OpenRLHF has deleted."""
        for path in self._folder.glob("*.pt"):
            if not (self._actor / path.stem).exists():
                path.unlink()


def write_atomically(path: Path, text: str) -> None:
    """The whole text or the old file, whatever happens in between."""
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)
