"""ASPO: the importance ratio of good tokens turned upside down."""

from __future__ import annotations

import torch
from torch import Tensor

from .diagnostics import Metrics
from .inputs import LossInputs
from .ratios import token_log_ratio, token_ratio
from .trust_region import check_clip, clip_share, within_clip
from .weighted import weighted_log_prob_loss


def aspo_loss(
    inputs: LossInputs,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float = 3.0,
    anchor: str = "rollout",
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """ASPO: -M min(w, dual_clip) A log pi per token, w = 1/r where A >= 0 and r where A < 0.

    M is PPO's clip: 0 where r > 1 + clip_high and A >= 0, or r < 1 - clip_low and A < 0. With r as
    a weight, tokens that have become likely are pushed up the most; with 1/r, the least. The dual
    clip is soft: it bounds the weight and keeps the gradient.

    Wang et al., arXiv 2510.06062; checked against `compute_policy_loss_archer` of the authors'
    Archer2.0, whose entropy-dependent clip (0.2 or 0.4) is not part of ASPO and is left out.

    Raises:
        ValueError: an option out of range, or see `anchor_log_probs`.
    """
    check_clip("aspo", clip_low, clip_high)
    if not dual_clip > 1:
        raise ValueError(f"aspo: dual_clip must be above 1, got {dual_clip}")
    with torch.no_grad():
        log_ratio = token_log_ratio(inputs, anchor)
        ratio = token_ratio(log_ratio)
        keep = within_clip(ratio, inputs.advantages, 1 - clip_low, 1 + clip_high)
        weight = torch.where(inputs.advantages >= 0, token_ratio(-log_ratio), ratio)
        weight = weight.clamp_(max=dual_clip).mul_(keep)
    loss = weighted_log_prob_loss(inputs, weight, loss_agg_mode)
    return loss, {"phi": weight, "clip_ratio": clip_share(keep, inputs)}
