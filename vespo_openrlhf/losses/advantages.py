"""What a sample's reward is worth against the others of its group, before a loss sees it.

A sample that does not count (its reward never came) changes nothing for the others: they get what
a group of them alone would get.
"""

from __future__ import annotations

import torch
from torch import Tensor

# As the published code of GRPO's successors has it.
_EPSILON = 1e-6


def group_advantages(rewards: Tensor, counted: Tensor, estimator: str) -> Tensor:
    """(G, n) sequence-level advantages of G groups of n samples, in the dtype of `rewards`.

    With r the rewards of the m samples of a group that count:

    - "group_norm": (r - mean) / (std + 1e-6), std with m - 1;
    - "rloo": r less the mean of the other m - 1;
    - "dr_grpo", "reinforce_baseline": r - mean;
    - "flash_reinforce": r less the mean over all groups;
    - "reinforce", "gae": r itself.

    Equal rewards, and a sample that is alone, get exactly 0 from all that have a baseline.

    Args:
        rewards: (G, n), floating; whatever stands where nothing counts is not read.
        counted: (G, n) bool.
        estimator: OpenRLHF's --algo.advantage.estimator. None of these whitens over the batch.

    Returns:
        Samples that do not count have an advantage of 0.

    Raises:
        ValueError: unknown `estimator`.
    """
    if estimator in ("reinforce", "gae"):
        return torch.where(counted, rewards, 0.0)
    if estimator == "flash_reinforce":
        whole = group_advantages(rewards.reshape(1, -1), counted.reshape(1, -1), "dr_grpo")
        return whole.view_as(rewards)
    number, deviation = _deviations(rewards, counted)
    if estimator == "group_norm":
        deviation = deviation / (_std(number, deviation) + _EPSILON)
    elif estimator == "rloo":
        deviation = deviation * (number / (number - 1).clamp(min=1))
    elif estimator not in ("dr_grpo", "reinforce_baseline"):
        raise ValueError(f"there is no advantage estimator {estimator!r}")
    return deviation.to(rewards.dtype)


def group_std(rewards: Tensor, counted: Tensor) -> Tensor:
    """(G, n) the standard deviation (m - 1) of each sample's group; nan where m is below 2."""
    number, deviation = _deviations(rewards, counted)
    std = torch.where(number > 1, _std(number, deviation), torch.nan)
    return std.to(rewards.dtype).expand_as(rewards)


def _deviations(rewards: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """(G, 1) how many count, and (G, n) their distances from the group's mean: float64."""
    number = counted.sum(dim=-1, keepdim=True).double()
    # From the lowest, so that equal rewards are 0 and have the mean 0, and no rounding shows.
    lowest = torch.where(counted, rewards, torch.inf).amin(dim=-1, keepdim=True)
    above = torch.where(counted, rewards.double() - lowest, 0.0)
    mean = above.sum(dim=-1, keepdim=True) / number.clamp(min=1)
    return number, torch.where(counted, above - mean, 0.0)


def _std(number: Tensor, deviation: Tensor) -> Tensor:
    return (deviation.square().sum(dim=-1, keepdim=True) / (number - 1).clamp(min=1)).sqrt()


def whiten(values: Tensor, mask: Tensor, *, scale: bool = True) -> Tensor:
    """`values` less their mean over `mask`, and over their standard deviation; 0 outside it.

    Args:
        values: of any shape; what stands outside the mask is not read.
        mask: bool, of that shape.
        scale: whether to divide.
    """
    number = mask.sum().clamp(min=1)
    centred = torch.where(mask, values - torch.where(mask, values, 0.0).sum() / number, 0.0)
    if not scale:
        return centred
    return centred * (centred.square().sum() / number).clamp(min=1e-8).rsqrt()
