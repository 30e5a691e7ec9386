"""Losses that leave whole sequences out of the update, by their importance weight."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .diagnostics import Metrics
from .inputs import LossInputs, sequence_share
from .ratios import (
    normalise_log_weight,
    sequence_advantage,
    sequence_log_weight,
    token_log_ratio,
    token_ratio,
)
from .trust_region import check_clip, check_weight_bounds, clip_share, within_clip
from .weighted import weighted_log_prob_loss


def seq_mis_loss(
    inputs: LossInputs,
    *,
    weight_low: float = 0.5,
    weight_high: float = 2.0,
    anchor: str = "rollout",
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """Sequence-level masked importance sampling: -1[low <= W <= high] W A log pi, W constant.

    A weight that is far off says that the sample is, so it is dropped, where truncation (`tis`)
    would keep it. Liu et al. (2025), "When speed kills stability"; `Seq-MIS` in verl, whose bounds
    are these, and "sequence_mask" in TRL, there on old/rollout with high = 3.

    Raises:
        ValueError: not 0 <= weight_low <= 1 <= weight_high, or see `anchor_log_probs`.
    """
    check_weight_bounds("seq_mis", weight_low, weight_high)
    log_w = sequence_log_weight(inputs, anchor)
    log_low = math.log(weight_low) if weight_low else -math.inf
    keep = (log_w >= log_low) & (log_w <= math.log(weight_high))
    weight = torch.where(keep, log_w, -torch.inf).exp()
    loss = weighted_log_prob_loss(inputs, weight, loss_agg_mode)
    return loss, {"log_w": log_w, "phi": weight, "is_filter_ratio": sequence_share(~keep, inputs)}


def geo_mask_loss(
    inputs: LossInputs,
    *,
    weight_low: float = 0.999,
    weight_high: float = 1.001,
    cap: float = 2.0,
    anchor: str = "rollout",
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """-1[low <= W^(1/T) <= high] min(r, cap) A log pi per token, the weight r = pi/mu constant.

    The geometric mean of a sequence's ratios does not grow with its length T, so the mask has no
    bias against long responses; but the bounds hold for one amount of drift. `Geo-RS-Token-TIS` in
    verl's rollout correction, after Liu et al. (2025); bounds and cap are verl's, made for the
    engine's mismatch on a trainer that is not behind: widen them for stale samples.

    Raises:
        ValueError: not 0 <= weight_low <= 1 <= weight_high, a cap below 1, or see
            `anchor_log_probs`.
    """
    check_weight_bounds("geo_mask", weight_low, weight_high)
    if not cap >= 1:
        raise ValueError(f"geo_mask: cap must be at least 1, got {cap}")
    log_w = sequence_log_weight(inputs, anchor)
    mean_ratio = normalise_log_weight(log_w, inputs.num_tokens, "full").exp()
    keep = (mean_ratio >= weight_low) & (mean_ratio <= weight_high)
    with torch.no_grad():
        weight = token_ratio(token_log_ratio(inputs, anchor)).clamp_(max=cap)
    loss = weighted_log_prob_loss(inputs, weight.mul_(keep.unsqueeze(-1)), loss_agg_mode)
    return loss, {"log_w": log_w, "phi": weight, "is_filter_ratio": sequence_share(~keep, inputs)}


def off_policy_mask_loss(
    inputs: LossInputs,
    *,
    max_divergence: float = 0.5,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    anchor: str = "rollout",
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """GRPO without the bad responses that the policy has left: M min(r A, clip(r) A).

    M = 0 where A < 0 and mean_t log(mu/pi) > max_divergence, in nats per token: a mistake that the
    policy would no longer make teaches nothing, and its gradient is the least stable.

    DeepSeek-V3.2, arXiv 2512.02556, eq. 9, and `get_off_policy_mask` of TRL. The report gives no
    threshold; 0.5 is TRL's suggestion. The clipped surrogate's gradient is written as a weight on
    A log pi: r where the clip leaves one, else 0.

    Raises:
        ValueError: an option out of range, or see `anchor_log_probs`.
    """
    if not max_divergence >= 0:
        raise ValueError(
            f"off_policy_mask: max_divergence must be at least 0, got {max_divergence}"
        )
    check_clip("off_policy_mask", clip_low, clip_high)
    log_w = sequence_log_weight(inputs, anchor)
    advantage = sequence_advantage(inputs)
    divergence = -normalise_log_weight(log_w, inputs.num_tokens, "full")
    keep = (advantage >= 0) | (divergence <= max_divergence)
    with torch.no_grad():
        weight = token_ratio(token_log_ratio(inputs, anchor))
        inside = within_clip(weight, inputs.advantages, 1 - clip_low, 1 + clip_high)
        weight.mul_(inside & keep.unsqueeze(-1))
    loss = weighted_log_prob_loss(inputs, weight, loss_agg_mode)
    metrics = {"log_w": log_w, "phi": weight, "advantage": advantage}
    metrics["clip_ratio"] = clip_share(inside, inputs)
    metrics["is_filter_ratio"] = sequence_share(~keep, inputs)
    return loss, metrics
