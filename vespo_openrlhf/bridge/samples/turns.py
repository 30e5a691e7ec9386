"""The turns of an episode, as tensors over its tokens and over a rollout batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from vespo_openrlhf.bridge.wire import Turns


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
