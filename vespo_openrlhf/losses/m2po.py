"""M2PO: mask the tokens that make the second moment of the log-ratios too large."""

from __future__ import annotations

import torch
from torch import Tensor

from .diagnostics import Metrics
from .inputs import LossInputs, masked_mean, update_statistics, zero_masked
from .ratios import token_log_ratio, token_ratio
from .trust_region import moved_as_pushed
from .weighted import weighted_log_prob_loss

# Bins of |log r|, by powers of 2^(1/32) from 2^-10 nats; below and above, one each.
_BINS_PER_OCTAVE = 32
_SMALLEST = -10
_NUM_BINS = _BINS_PER_OCTAVE * 15


def m2po_statistics(inputs: LossInputs, *, anchor: str) -> Tensor:
    """(2 K,) float64: tokens that PPO may clip, and the sum of their log^2 r, by bins of |log r|.

    The mask depends on all of an update's tokens; a histogram can be summed over its parts, and
    finds the threshold to the width of a bin, 2 %.
    """
    log_ratio = token_log_ratio(inputs, anchor)
    counted = moved_as_pushed(log_ratio, zero_masked(inputs.advantages, inputs.mask)).float()
    size = log_ratio.abs_()
    octave = size.log2() if size.dtype == torch.float32 else size.float().log2()
    bins = octave.sub_(_SMALLEST).mul_(_BINS_PER_OCTAVE).add_(1).clamp_(0, _NUM_BINS)
    # A log-prob that is not a number must spoil the sums, and not be an index out of range.
    bins = bins.nan_to_num_(0.0).int()
    squares = size.square_().float().mul_(counted)
    sums = counted.new_zeros(2, _NUM_BINS + 1)
    for row, values in zip(sums, (counted, squares), strict=True):
        row.index_add_(0, bins.flatten(), values.flatten())
    return sums.double().flatten()


def m2po_threshold(statistics: Tensor, budget: float) -> Tensor:
    """The |log r| from which tokens are masked so that the mean log^2 r of the others is at most
    `budget`: 0-dim, inf where nothing is to be masked.

    The largest are masked first, one bin after the other.
    """
    counts, squares = statistics.view(2, -1).cumsum(dim=-1)
    kept = (squares <= budget * counts).sum()  # the means grow with the bins
    edge = torch.exp2((kept - 1) / _BINS_PER_OCTAVE + _SMALLEST)
    return torch.where(kept > _NUM_BINS, torch.inf, torch.where(kept > 0, edge, 0.0))


def m2po_loss(
    inputs: LossInputs,
    *,
    budget: float = 0.04,
    anchor: str = "rollout",
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """M2PO: -M r A log pi per token, r = pi/mu constant, the gradient of M r A.

    M drops tokens, the largest |log r| first, until the mean of log^2 r over those kept is at most
    `budget`; only tokens that PPO may clip (A > 0 and r > 1, A < 0 and r < 1) are dropped or
    counted. The mean runs over a whole update: see `m2po_statistics`.

    Zheng et al., arXiv 2510.01161, eq. 4-5 and algorithm 1; budget .04 is theirs throughout. Their
    code bounds the ratio where the paper masks, and never within [0.7, 1.5].

    Raises:
        ValueError: a budget that is not positive, no statistics in the batch, or see
            `anchor_log_probs`.
    """
    if not budget > 0:
        raise ValueError(f"m2po: budget must be positive, got {budget}")
    threshold = m2po_threshold(update_statistics("m2po", inputs), budget)
    with torch.no_grad():
        log_ratio = token_log_ratio(inputs, anchor)
        masked = moved_as_pushed(log_ratio, inputs.advantages) & (log_ratio.abs() >= threshold)
        weight = token_ratio(log_ratio).masked_fill_(masked, 0.0)
    loss = weighted_log_prob_loss(inputs, weight, loss_agg_mode)
    return loss, {"phi": weight, "clip_ratio": masked_mean(masked.float(), inputs.mask)}


m2po_loss.statistics = m2po_statistics  # type: ignore[attr-defined]
