"""MinPRO: the prefix's importance weight by its least likely token."""

from __future__ import annotations

import torch
from torch import Tensor

from .diagnostics import Metrics
from .inputs import LossInputs
from .ratios import token_log_ratio, token_ratio
from .trust_region import check_weight_bounds
from .weighted import clipped_ratio_loss


def minpro_loss(
    inputs: LossInputs,
    *,
    weight_low: float = 0.0,
    weight_high: float = 5.0,
    anchor: str = "rollout",
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """MinPRO: -clip(min_{i<t} r_i * r_t, low, high) A log pi per token t, the weight constant.

    The exact weight of token t is the product of the ratios up to it, of exponential variance;
    the smallest ratio of an earlier token stands for the product of all of them. The first action
    token has no prefix, and the weight r_1.

    Lei et al., arXiv 2601.22718. The paper's own equation was not at hand: this is its objective as
    one public summary gives it whole and a second in part. Its clip bounds are in neither; the
    defaults here are those of `cispo`, which has the same form.

    Raises:
        ValueError: not 0 <= weight_low <= 1 <= weight_high, or see `anchor_log_probs`.
    """
    check_weight_bounds("minpro", weight_low, weight_high)
    with torch.no_grad():
        log_ratio = token_log_ratio(inputs, anchor)
        ratio = token_ratio(log_ratio + prefix_minimum(log_ratio, inputs.mask))
    return clipped_ratio_loss(inputs, ratio, weight_low, weight_high, loss_agg_mode)


@torch.no_grad()
def prefix_minimum(log_ratio: Tensor, mask: Tensor) -> Tensor:
    """(B, A) smallest value at an action token before each token; 0 where there is none.

    Args:
        log_ratio: (B, A) log pi - log mu.
        mask: (B, A) bool, True on action tokens; what stands elsewhere is passed over.
    """
    before = log_ratio.new_full(log_ratio.shape, torch.inf)
    before[:, 1:] = torch.where(mask, log_ratio, torch.inf)[:, :-1]
    smallest = before.cummin(dim=-1).values
    return smallest.masked_fill_(smallest == torch.inf, 0.0)
