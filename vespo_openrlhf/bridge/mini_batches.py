"""From the scheduler's groups to what OpenRLHF's actors train on, in the order it was planned.

OpenRLHF hands each data-parallel rank one contiguous part of a rollout batch. Mini-batch j of the
scheduler must be what all ranks together train in their j-th update; so each rank is given its
share of mini-batch 0, then of mini-batch 1, and so on.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from openrlhf.trainer.ppo_utils.experience import split_experience_batch

from vespo_openrlhf.bridge.wire import Rollout
from vespo_openrlhf.scheduling import Batch, Group


def to_samples(batch: Batch, groups_per_update: int) -> list[Any]:
    """OpenRLHF's samples of a rollout batch, group by group, mini-batch by mini-batch.

    One rule: a sample without action tokens counts for nothing. It has no part in the loss, in
    the advantages of its group, or in any statistic. So is every sample without a verdict; and
    the groups that fill up the data's last mini-batch, which may be short, where an update needs
    a whole one.

    Every sample has the fields and the logged names of every other, or OpenRLHF cannot batch
    them. What a sample lacks is NaN there.
    """
    samples = []
    for version, mini_batch in enumerate(batch.mini_batches, start=batch.version):
        for group in mini_batch:
            samples += _group_samples(group, version)
        for _ in range(groups_per_update - len(mini_batch)):
            samples += [_without_actions(s) for s in _group_samples(mini_batch[-1], version)]
    _make_alike(samples)
    return samples


def _group_samples(group: Group, version: int) -> list[Any]:
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
            experience.rewards, experience.scores, experience.info = None, None, {}
        experience.info["lag"] = torch.tensor([float(version - group.spans[sample][0][0])])
        samples.append(experience)
    return samples


def _without_actions(experience: Any) -> Any:
    return dataclasses.replace(
        experience,
        action_mask=torch.zeros_like(experience.action_mask),
        info=dict(experience.info),
    )


def unscored_logs(batch: Batch) -> dict[str, float]:
    """What samples without a verdict logged, such as why: means under `unscored/NAME`.

    Elsewhere they count for nothing, and a verifier that is down would not be seen.
    """
    logged: dict[str, list[torch.Tensor]] = {}
    for group in batch.groups:
        for payload, reward in zip(group.payloads, group.rewards, strict=True):
            if payload is not None and reward is None:
                for name, value in payload.experience.info.items():
                    logged.setdefault(name, []).append(_number(value))
    values = {name: torch.cat(numbers) for name, numbers in logged.items()}
    finite = {name: value[value.isfinite()] for name, value in values.items()}
    return {f"unscored/{name}": v.mean().item() for name, v in finite.items() if len(v)}


def _make_alike(samples: Sequence[Any]) -> None:
    for field in ("rewards", "scores"):  # with a reward model no sample has any yet
        if any(getattr(sample, field) is not None for sample in samples):
            for sample in samples:
                setattr(sample, field, _number(getattr(sample, field)))
    names = dict.fromkeys(name for sample in samples for name in sample.info)
    for sample in samples:
        sample.info = {name: _number(sample.info.get(name)) for name in names}


def _number(value: torch.Tensor | None) -> torch.Tensor:
    """(1,) float32; NaN for what is missing, or is no single number."""
    if value is None or value.numel() != 1:
        return torch.tensor([math.nan])
    return value.reshape(1).float()


def to_items(experiences: Sequence[Any], updates: int) -> list[list[Any]]:
    """OpenRLHF's experiences, in whatever batches it made them, as single ones per update."""
    items: dict[int, Any] = {}
    for experience in experiences:
        indices = experience.index  # split_experience_batch forgets it
        items |= zip(indices, split_experience_batch(experience), strict=True)
    ordered = [items[index] for index in sorted(items)]
    size = len(ordered) // updates
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def for_ranks(updates: Sequence[Sequence[Any]], ranks: int) -> list[list[Any]]:
    """The items of each data-parallel rank: its share of each update's, in their order.

    Every rank-th item goes to one rank, so that each gets of every group, long or short.

    Raises:
        ValueError: the items of an update do not divide among the ranks.
    """
    size = len(updates[0])
    if size % ranks:
        raise ValueError(
            f"--train.batch_size {size} does not divide among {ranks} data-parallel ranks"
        )
    return [[item for update in updates for item in update[rank::ranks]] for rank in range(ranks)]
