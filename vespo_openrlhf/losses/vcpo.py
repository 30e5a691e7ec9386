"""VCPO: smaller steps where few samples carry the weight, and the baseline of least variance."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .diagnostics import Metrics
from .inputs import LossInputs
from .weighted import tis_loss


@torch.no_grad()
def effective_share(log_w: Tensor) -> Tensor:
    """ESS / N = (sum W)^2 / (N sum W^2) of (N,) log-weights: 0-dim in (0, 1]; 1 for none."""
    if not log_w.numel():
        return log_w.new_ones(())
    log_w = log_w.double()
    log_size = 2 * torch.logsumexp(log_w, 0) - torch.logsumexp(2 * log_w, 0)
    return log_size.exp() / log_w.numel()


@torch.no_grad()
def vcpo_step_scale(per_sequence: Mapping[str, Tensor]) -> Tensor:
    """sqrt(ESS / N), the factor on the learning rate of one update: 0-dim in (0, 1].

    The square root is the scaling rule of Adam's step with the batch size. The weights are not
    capped here. arXiv 2602.17616, eq. 5, on-policy share 1 as in the authors' scripts.

    Args:
        per_sequence: (N,) `log_w` and `num_tokens` of all the update's sequences. Those without
            action tokens are left out.
    """
    return effective_share(per_sequence["log_w"][per_sequence["num_tokens"] > 0]).sqrt()


@torch.no_grad()
def minimum_variance_baseline(
    rewards: Tensor, log_w: Tensor, score_norms: Tensor, groups: Tensor
) -> Tensor:
    """The baseline b of each group for which sum W (R - b) grad log pi varies least: (N,).

    b = sum W^2 |g|^2 R / sum W^2 |g|^2 over the group, g the gradient of a sample's log pi:
    the off-policy optimal baseline (OPOB) of arXiv 2602.17616, in its published code
    `compute_opob_baseline` with scope "group". R - b then stands for the advantage. The norms need
    a backward pass of their own per sample, which OpenRLHF does not make: training with `vcpo`
    here uses the group advantages it is given, and this is for trainers that have the norms.

    Args:
        rewards: (N,) rewards R.
        log_w: (N,) log importance weights, not capped.
        score_norms: (N,) norms |g|.
        groups: (N,) the group of each sample, any integers.

    Returns:
        (N,) float64, the same for all samples of a group; the plain mean where a group has no
        weight at all.
    """
    _, index = groups.unique(return_inverse=True)
    num_groups = int(index.max()) + 1 if index.numel() else 0
    rewards = rewards.double()
    log_weight = 2 * (log_w.double() + score_norms.double().log())
    # Only ratios within a group matter: its largest weight is set to 1, so nothing overflows.
    largest = log_weight.new_full((num_groups,), -torch.inf)
    largest.scatter_reduce_(0, index, log_weight, "amax")
    finite = largest.isfinite()[index]
    weight = torch.where(finite, (log_weight - largest[index]).exp(), 1.0)
    total, weighted = (
        torch.zeros_like(largest).index_add_(0, index, values)
        for values in (weight, weight * rewards)
    )
    return (weighted / total)[index]


def vcpo_loss(
    inputs: LossInputs,
    *,
    cap: float = 8.0,
    anchor: str = "rollout",
    loss_agg_mode: str = "seq-mean-token-mean",
) -> tuple[Tensor, Metrics]:
    """VCPO: -min(W, cap) A log pi with W constant, and steps of sqrt(ESS / N) their length.

    The loss is truncated importance sampling of sequences (`tis` with level "sequence"); what is
    VCPO's own is the step, which a trainer has to ask for: `PolicyLoss.step_scale`. It is exact
    for any micro-batches, as it is taken when all of the update's sequences have been seen.

    Huang et al., arXiv 2602.17616; cap 8 and the mean over sequences are those of the authors'
    scripts. Its baseline is `minimum_variance_baseline`.

    Raises:
        ValueError: a cap that is not positive, or see `anchor_log_probs`.
    """
    if not cap > 0:
        raise ValueError(f"vcpo: cap must be positive, got {cap}")
    return tis_loss(inputs, level="sequence", cap=cap, anchor=anchor, loss_agg_mode=loss_agg_mode)


vcpo_loss.step_scale = vcpo_step_scale  # type: ignore[attr-defined]
