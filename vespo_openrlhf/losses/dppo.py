"""DPPO: a trust region on the probability itself instead of on its ratio."""

from __future__ import annotations

import torch
from torch import Tensor

from .diagnostics import Metrics
from .inputs import LossInputs, zero_masked
from .ratios import anchor_log_probs, token_log_ratio, token_ratio
from .trust_region import clip_share, within_clip
from .weighted import weighted_log_prob_loss


def dppo_loss(
    inputs: LossInputs,
    *,
    tv_low: float = 0.2,
    tv_high: float = 0.2,
    cap: float = 20.0,
    anchor: str = "rollout",
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """DPPO with the binary total variation: -M min(r, cap) A log pi per token, r = pi/mu constant.

    M = 0 where A > 0 and pi - mu > tv_high, or A < 0 and mu - pi > tv_low: the total variation
    between the two policies, with all tokens but the sampled one taken together, is |pi - mu|. A
    ratio over-penalises rare tokens, whose ratio is noisy, and lets frequent ones go too far.

    Qi et al., arXiv 2602.04879, eq. 12-13 (numbers as cited by others; checked against the
    `dppo_tv` loss of verl, by the authors, and prime-rl's default loss, which adds a KL term). The
    thresholds are the paper's 0.2; cap 20 is verl's, large so as not to bias.

    Raises:
        ValueError: a threshold or the cap out of range, or see `anchor_log_probs`.
    """
    if not (0 <= tv_low <= 1 and 0 <= tv_high <= 1):
        raise ValueError(f"dppo: tv_low and tv_high must be in [0, 1], got {tv_low} and {tv_high}")
    if not cap >= 1:
        raise ValueError(f"dppo: cap must be at least 1, got {cap}")
    with torch.no_grad():
        probability, behaviour = (
            zero_masked(log_probs, inputs.mask).float().exp()
            for log_probs in (inputs.log_probs, anchor_log_probs(inputs, anchor))
        )
        keep = within_clip(probability - behaviour, inputs.advantages, -tv_low, tv_high)
        weight = token_ratio(token_log_ratio(inputs, anchor)).clamp_(max=cap)
    loss = weighted_log_prob_loss(inputs, weight.mul_(keep), loss_agg_mode)
    return loss, {"phi": weight, "clip_ratio": clip_share(keep, inputs)}
