"""The turns of an episode: as an executor tells them, and as tensors over its tokens and over a
rollout batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from openrlhf.trainer.ppo_utils.experience import Experience

from vespo_openrlhf.recorded.schema import Turns


def note_turns(experience: Experience, turns: int, unknown: int) -> None:
    """Among what the sample logs: its turns, and sampled tokens that no request has answered."""
    experience.info["turns"] = torch.tensor([turns])
    experience.info["unattributed_tokens"] = torch.tensor([unknown])


def turns_of(response: Mapping[str, Any]) -> Turns:
    """(start, end, reward) of each turn, in tokens; NaN where an executor tells the sample's
    reward alone."""
    ranges = response["action_ranges"]
    rewards = response.get("turn_rewards") or [math.nan] * len(ranges)
    return tuple((start, end, reward) for (start, end), reward in zip(ranges, rewards, strict=True))


def turn_of_token(turns: Turns, actions: int) -> torch.Tensor:
    """(A,) int64: the turn, from 1, that sampled the token which each position predicts; 0 for
    a token that no turn has sampled. Position p predicts token p + 1.

    Args:
        turns: what of them lies beyond the last position is left out.
        actions: A.
    """
    index = torch.zeros(actions, dtype=torch.long)
    for number, (start, end, _) in enumerate(turns, start=1):
        index[max(start - 1, 0) : max(end - 1, 0)] = number
    return index


def rewards_of_turns(turns: Sequence[Turns]) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, K) float64 rewards, NaN where they are not known, and (N, K) bool, which turns there
    are: K of the episode that has the most, and at least 1."""
    most = max(1, *(len(each) for each in turns))
    rewards = torch.full((len(turns), most), math.nan, dtype=torch.float64)
    for row, each in zip(rewards, turns, strict=True):
        row[: len(each)] = torch.tensor([reward for _, _, reward in each], dtype=torch.float64)
    counts = torch.tensor([len(each) for each in turns])
    return rewards, torch.arange(most) < counts[:, None]
