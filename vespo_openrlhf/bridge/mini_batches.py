"""From the scheduler's groups to what OpenRLHF's actors train on, in the order it was planned.

OpenRLHF hands each data-parallel rank one contiguous part of a rollout batch. Mini-batch j of the
scheduler must be what all ranks together train in their j-th update; so each rank is given its
share of mini-batch 0, then of mini-batch 1, and so on.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from openrlhf.trainer.ppo_utils.experience import (
    Experience,
    make_experience_batch,
    split_experience_batch,
)

from vespo_openrlhf.bridge.events import Rollout
from vespo_openrlhf.scheduling import Batch, Group


def to_samples(batch: Batch, groups_per_update: int) -> list[Any]:
    """OpenRLHF's samples of a rollout batch, group by group, mini-batch by mini-batch.

    A sample without a verdict is left out of the loss: it is given the mean reward of its group
    and no action tokens. The data's last mini-batch may be short, and an update needs a whole one:
    it is filled up with groups without action tokens, which count for nothing.
    """
    samples = []
    for version, mini_batch in enumerate(batch.mini_batches, start=batch.version):
        for group in mini_batch:
            samples += _group_samples(group, version)
        for _ in range(groups_per_update - len(mini_batch)):
            samples += [_without_actions(s) for s in _group_samples(mini_batch[-1], version)]
    return samples


def _group_samples(group: Group, version: int) -> list[Any]:
    scored = [r for r in group.rewards if r is not None]
    mean = sum(scored) / len(scored)
    whole: Any = next(
        payload.experience
        for payload, reward in zip(group.payloads, group.rewards, strict=True)
        if payload is not None and reward is not None
    )
    samples = []
    for sample, payload in enumerate(group.payloads):
        rollout: Rollout | None = payload
        experience = copy.copy(rollout.experience if rollout else whole)
        experience.info = dict(experience.info)
        if group.rewards[sample] is None:
            experience = _without_actions(experience)
            # Every sample has the fields and keys of every other, or OpenRLHF cannot batch them;
            # and nothing of a verdict that is not a number.
            experience.info, experience.scores = dict(whole.info), whole.scores
            if whole.rewards is not None:  # otherwise a reward model is still to come
                experience.rewards = experience.info["reward"] = torch.tensor([mean])
        experience.info["lag"] = torch.tensor([float(version - group.spans[sample][0][0])])
        samples.append(experience)
    return samples


def _without_actions(experience: Any) -> Any:
    return dataclasses.replace(
        experience,
        action_mask=torch.zeros_like(experience.action_mask),
        info=dict(experience.info),
    )


def to_items(experiences: Sequence[Any], updates: int) -> list[list[Any]]:
    """OpenRLHF's experiences, in whatever batches it made them, as single ones per update."""
    items: dict[int, Any] = {}
    for experience in experiences:
        indices = experience.index  # split_experience_batch forgets it
        items |= zip(indices, split_experience_batch(experience), strict=True)
    for item in items.values():
        if not item.action_mask.any():
            # OpenRLHF's means over its tokens are 0 / 0, and would be all that the logs show.
            item.info = {name: torch.nan_to_num(value) for name, value in item.info.items()}
    ordered = [items[index] for index in sorted(items)]
    size = len(ordered) // updates
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def for_ranks(updates: Sequence[Sequence[Any]], ranks: int) -> list[Experience]:
    """One experience per data-parallel rank: its share of each update's items, in their order.

    Every rank-th item goes to one rank, so that each gets of every group, long or short.

    Raises:
        ValueError: the items of an update do not divide among the ranks.
    """
    size = len(updates[0])
    if size % ranks:
        raise ValueError(
            f"--train.batch_size {size} does not divide among {ranks} data-parallel ranks"
        )
    return [
        make_experience_batch([item for update in updates for item in update[rank::ranks]])
        for rank in range(ranks)
    ]
