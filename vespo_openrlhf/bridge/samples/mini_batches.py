"""From the scheduler's groups to what OpenRLHF's actors train on, in the order it was planned.

OpenRLHF hands each data-parallel rank one contiguous part of a rollout batch. Mini-batch j of the
scheduler must be what all ranks together train in their j-th update; so each rank is given its
share of mini-batch 0, then of mini-batch 1, and so on.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from openrlhf.trainer.ppo_utils.experience import make_experience_batch, split_experience_batch
from torch.nn.utils.rnn import pad_sequence

from vespo_openrlhf.bridge.samples.turns import turn_of_token
from vespo_openrlhf.bridge.wire import (
    Rollout,
    RoutedExperts,
    TrainingExperience,
    fetched,
)
from vespo_openrlhf.recorded.schema import Turns
from vespo_openrlhf.scheduling import Batch, Group
from vespo_openrlhf.scheduling.lag import Spans
from vespo_openrlhf.scheduling.metrics import LagStatistics


def to_samples(batch: Batch, groups_per_update: int) -> list[Any]:
    """OpenRLHF's samples of a rollout batch, group by group, mini-batch by mini-batch.

    One rule: a sample without action tokens counts for nothing. It has no part in the loss, in
    the advantages of its group, or in any statistic. So is every sample without a verdict; and
    the groups that fill up the data's last mini-batch, which may be short, where an update needs
    a whole one.

    Every sample has the fields and the logged names of every other, or OpenRLHF cannot batch
    them. What a sample lacks is NaN there.
    """
    samples: list[Any] = []
    for _, group, counts in _planned(batch, groups_per_update):
        made = _group_samples(group)
        samples += made if counts else map(_without_actions, made)
    _make_alike(samples)
    return samples


def lags(batch: Batch, groups_per_update: int) -> list[float]:
    """Of each sample that `to_samples` makes: versions from its oldest token to its update; NaN
    where nobody knows."""
    return [
        version - spans[0][0] if spans else math.nan
        for version, group, _ in _planned(batch, groups_per_update)
        for spans in _known_spans(group, version)
    ]


def recorded_lag(batch: Batch) -> LagStatistics | None:
    """By the versions that a recording tells of its samples; None where it tells none."""
    known = [
        (version, spans)
        for version, mini_batch in enumerate(batch.mini_batches, start=batch.version)
        for group in mini_batch
        for payload, spans in zip(group.payloads, _known_spans(group, version), strict=True)
        if payload is not None and spans
    ]
    return LagStatistics.count(known) if known else None


def _known_spans(group: Group, version: int) -> list[Spans]:
    """By sample, those of the run that made it; () where nobody knows, or where the policy that
    sampled it is ahead of the one that is trained at `version`: then no lag tells them apart."""
    found = []
    for payload, spans in zip(group.payloads, group.spans, strict=True):
        recorded = payload.recorded_spans if payload is not None else None
        own = spans if recorded is None else recorded
        found.append(own if own and own[-1][0] <= version else ())
    return found


def routed_experts(batch: Batch, groups_per_update: int) -> list[RoutedExperts]:
    """Of each sample that `to_samples` makes: the experts that its tokens took in the engine."""
    return [
        (payload or _whole(group)).routed_experts
        for _, group, _ in _planned(batch, groups_per_update)
        for payload in group.payloads
    ]


def turns(batch: Batch, groups_per_update: int) -> list[Turns]:
    """Of each sample that `to_samples` makes: the turns of its episode."""
    return [
        (payload or _whole(group)).turns
        for _, group, _ in _planned(batch, groups_per_update)
        for payload in group.payloads
    ]


def routed_bytes(batch: Batch) -> int:
    """Of the experts of all its samples, as the engines tell them."""
    return sum(
        payload.routed_bytes
        for group in batch.groups
        for payload in group.payloads
        if payload is not None
    )


def _planned(batch: Batch, groups_per_update: int) -> Iterator[tuple[int, Group, bool]]:
    """Each group with the version that it updates, and whether it counts or fills up."""
    for version, mini_batch in enumerate(batch.mini_batches, start=batch.version):
        for group in mini_batch:
            yield version, group, True
        for _ in range(groups_per_update - len(mini_batch)):
            yield version, mini_batch[-1], False


def _whole(group: Group) -> Rollout:
    """A sample that stands for those of its group that failed, and counts for nothing there."""
    rollout: Rollout = next(
        payload
        for payload, reward in zip(group.payloads, group.rewards, strict=True)
        if payload is not None and reward is not None
    )
    return rollout


def _group_samples(group: Group) -> list[Any]:
    whole = _whole(group)
    samples: list[Any] = []
    for sample, payload in enumerate(group.payloads):
        rollout: Rollout = payload or whole
        experience = copy.copy(rollout.experience)
        experience.info = dict(experience.info)
        if group.rewards[sample] is None:
            experience = _without_actions(experience)
            experience.rewards, experience.scores, experience.info = None, None, {}
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


def rollout_statistics(items: Sequence[Any]) -> dict[str, float]:
    """OpenRLHF's means of a rollout batch, of the samples that are trained, with the rewards that
    they are trained on."""
    rewards = torch.stack([item.info["reward"] for item in items]).float()
    rewards = rewards[rewards.isfinite()]
    lengths = torch.stack([item.response_length for item in items]).float()
    truncated = torch.stack([item.truncated for item in items]).float()
    return {
        "rollout/reward_mean": rewards.mean().item(),
        "rollout/reward_std": rewards.std().item() if len(rewards) > 1 else 0.0,
        "rollout/response_length_mean": lengths.mean().item(),
        "rollout/truncated_rate": truncated.mean().item(),
        "rollout/num_samples": float(len(rewards)),
    }


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


def to_items(
    experiences: Sequence[Any],
    lags: Sequence[float],
    updates: int,
    routed_experts: Sequence[RoutedExperts] | None = None,
    turns: Sequence[Turns] | None = None,
    teacher_states: Sequence[torch.Tensor] | None = None,
) -> list[list[TrainingExperience]]:
    """OpenRLHF's experiences, in whatever batches it made them, as single ones per update.

    Args:
        lags: by sample, in the order of `to_samples`.
        updates: how many share them equally.
        routed_experts: those to take in training, as `lags`.
        turns: of each sample, as `lags`, where each is weighed apart.
        teacher_states: (A, E) of each sample, as `lags`, padded or not.
    """
    items: list[Any] = [None] * len(lags)
    for experience in experiences:
        indices = experience.index  # split_experience_batch forgets it
        for index, item in zip(indices, split_experience_batch(experience), strict=True):
            lag = torch.tensor(lags[index], dtype=torch.float32)
            experts = routed_experts[index] if routed_experts else None
            own = turn_of_token(turns[index], len(item.action_mask)) if turns else None
            states = teacher_states[index] if teacher_states else None
            items[index] = TrainingExperience(
                **vars(item), lag=lag, routed_experts=experts, turns=own, teacher_states=states
            )
    size = len(items) // updates
    return [items[i : i + size] for i in range(0, len(items), size)]


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


def micro_batches(buffer: Any) -> Iterator[TrainingExperience]:
    """What a rank's replay buffer holds, in the order it was filled, all of it.

    Args:
        buffer: OpenRLHF's, of `TrainingExperience`s; with dynamic batches already divided.
    """
    items, size = buffer.items, buffer.sample_batch_size
    chosen: Sequence[Sequence[int]] = (
        buffer.dynamic_indices
        if buffer.dynamic_batch
        else [range(i, min(i + size, len(items))) for i in range(0, len(items), size)]
    )
    for indices in chosen:
        batch = [items[index] for index in indices]
        lag = torch.stack([item.lag for item in batch])
        experts = fetched([item.routed_experts for item in batch])
        whole = vars(make_experience_batch(batch))
        own = {
            name: _padded([getattr(i, name) for i in batch]) for name in ("turns", "teacher_states")
        }
        yield TrainingExperience(**whole, lag=lag, routed_experts=experts, **own)


def _padded(values: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """Tensors of different lengths as one, with zeros at their ends; None where there are none."""
    known = [value for value in values if value is not None]
    return pad_sequence(known, batch_first=True) if known else None
