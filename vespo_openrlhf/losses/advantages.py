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


def turn_advantages(
    rewards: Tensor, turn_rewards: Tensor, taken: Tensor, counted: Tensor, estimator: str
) -> Tensor:
    """(G, n, K) advantages of the turns of episodes, in the dtype of `rewards`.

    Turn k is worth what came from it on, G_k = r_k + ... + r_K undiscounted, against the G_k of
    the group's samples that got as far, scaled as the estimator scales a group (`group_advantages`
    of the G_k). So a second turn is not blamed for the first one's failure, which it could not
    help. Every sample has a first turn, whose advantage is the episode's.

    A turn that only one sample has gets 0, as a sample alone in its group does: nothing tells
    whether it went well. The episode's advantage would tell of its first turns instead. Three
    answers right at once, r = (1), and one at the second try, r = (0, 0.5): with "dr_grpo" the
    first turns get 1 - 0.875 = 0.125, three times, and 0.5 - 0.875 = -0.375; with that, the right
    second answer would be unlearnt. Were another wrong twice, r = (0, 0), in place of a right one,
    the second turns would get 0.5 - 0.25 = 0.25 and -0.25.

    Args:
        rewards: (G, n) of whole episodes, penalties included: G_1.
        turn_rewards: (G, n, K), float64 where they are many; NaN where only the episode's is known.
        taken: (G, n, K) bool, the turns that there are; what stands elsewhere is not read.
        counted: (G, n) bool, as of `group_advantages`.
        estimator: "group_norm", "rloo" or "dr_grpo". All others, whose baseline is a critic or the
            whole batch, have no turns to compare: each turn has the episode's advantage.

    Returns:
        In a group with a counted sample of which a turn's reward, or every turn, is not known, the
        episode's advantage for every turn.
    """
    whole = group_advantages(rewards, counted, estimator)[..., None].expand(taken.shape)
    if estimator not in ("group_norm", "rloo", "dr_grpo"):
        return whole
    known = ~(taken & turn_rewards.isnan()).any(-1) & taken[..., 0]
    told = torch.where(taken, turn_rewards, 0.0)
    returns = told.flip(-1).cumsum(-1).flip(-1).to(rewards.dtype)
    returns[..., 0] = rewards
    there = taken & counted[..., None]
    by_turn = group_advantages(returns.mT, there.mT, estimator).mT
    return torch.where((known | ~counted).all(-1)[:, None, None], by_turn, whole)


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
