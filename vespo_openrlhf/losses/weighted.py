"""Losses of the form -c A log pi with a constant coefficient c: the gradient is c A grad log pi.

VESPO is one (in vespo.py); here are what they share, and the rivals: reinforce, tis, topr, cispo.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .diagnostics import Metrics
from .inputs import LossInputs, masked_mean, sequence_scale, sequence_share, zero_masked
from .ratios import (
    capped_weight,
    normalise_log_weight,
    sequence_advantage,
    sequence_log_weight,
    token_log_ratio,
    token_ratio,
)
from .trust_region import check_weight_bounds


def weighted_log_prob_loss(inputs: LossInputs, weight: Tensor, mode: str) -> Tensor:
    """-sum of weight * A * log pi over the action tokens, normalised like every other loss.

    Args:
        inputs: the micro-batch. All sums are float64: terms of both signs nearly cancel, and a
            float32 sum would keep the rounding of the large ones.
        weight: (B,) per sequence or (B, A) per token, >= 0, a constant: detached here.
        mode: see `aggregate`.

    Returns:
        0-dim float32 loss; its gradient reaches log_probs alone, in the dtype of log_probs.
    """
    mask = inputs.mask
    weight = weight.detach()
    with torch.no_grad():
        signal = zero_masked(inputs.advantages, mask).double()
        scale = -sequence_scale(inputs, mode)
        if weight.dim() == 2:
            signal *= zero_masked(weight, mask)
        else:
            scale = scale * weight
        log_probs = zero_masked(inputs.log_probs, mask).double()
        value = (scale * torch.linalg.vecdot(signal, log_probs)).sum()
        del log_probs  # (B, A) float64: gone before the gradient needs room
        gradient = signal.mul_(scale.unsqueeze(-1)).to(inputs.log_probs.dtype)
    # A scalar that has this gradient, and the value that float64 gives it.
    linear = torch.linalg.vecdot(gradient, zero_masked(inputs.log_probs, mask)).sum()
    return value.float() + (linear - linear.detach()).float()


def sequence_weighted_loss(
    inputs: LossInputs,
    weight_of: Callable[[Tensor, Tensor], Tensor],
    *,
    anchor: str = "rollout",
    tis_cap: float | None = None,
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """-c A log pi with one constant c for each sequence, a function of its log W and advantage.

    Args:
        inputs: the micro-batch.
        weight_of: (B,) log W and (B,) advantages, both float64, to (B,) weights c >= 0.
        anchor, tis_cap: of log W, see `sequence_log_weight`.
        loss_agg_mode: see `aggregate`.

    Returns:
        0-dim loss, and per sequence `log_w`, `phi` (that is c), `advantage`.

    Raises:
        ValueError: see `sequence_log_weight`.
    """
    log_w = sequence_log_weight(inputs, anchor, tis_cap)
    advantage = sequence_advantage(inputs)
    phi = weight_of(log_w, advantage)
    loss = weighted_log_prob_loss(inputs, phi, loss_agg_mode)
    return loss, {"log_w": log_w, "phi": phi, "advantage": advantage}


def clipped_ratio_loss(
    inputs: LossInputs, ratio: Tensor, low: float, high: float, mode: str
) -> tuple[Tensor, Metrics]:
    """-clip(r, low, high) A log pi per token, the ratio r (B, A) a constant."""
    weight = ratio.clamp(low, high)
    clip_ratio = masked_mean((weight != ratio).float(), inputs.mask)
    loss = weighted_log_prob_loss(inputs, weight, mode)
    return loss, {"phi": weight, "clip_ratio": clip_ratio}


def reinforce_loss(
    inputs: LossInputs, *, loss_agg_mode: str = "token-mean"
) -> tuple[Tensor, Metrics]:
    """REINFORCE without any off-policy correction: -A log pi (Williams, 1992).

    The control of every comparison: what staleness does when nothing is done about it. It reads
    no behaviour log-probs; where the batch carries the engine's, log W is reported.
    """
    weight = torch.ones_like(inputs.num_tokens, dtype=torch.float64)
    return weighted_log_prob_loss(inputs, weight, loss_agg_mode), {"phi": weight}


def tis_loss(
    inputs: LossInputs,
    *,
    level: str = "token",
    cap: float = 2.0,
    anchor: str = "rollout",
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """REINFORCE with truncated importance sampling: -min(w, cap) A log pi, the weight constant.

    Truncation is Ionides (2008), "Truncated importance sampling". With level "token", w is each
    token's pi/mu and 2 is the cap of Yao et al. (2025), "Your efficient RL framework secretly
    brings you off-policy RL training", here on the whole ratio, lag and engine mismatch alike.
    With level "sequence", w is the product over the sequence: unbiased but for the cap. Their
    correction as a factor on PPO is `ppo` with anchor="old" and tis="clip".

    Raises:
        ValueError: unknown level, cap not positive, or see `anchor_log_probs`.
    """
    if not cap > 0:
        raise ValueError(f"tis: cap must be positive, got {cap}")
    if level == "sequence":
        loss, metrics = sequence_weighted_loss(
            inputs,
            lambda log_w, _: capped_weight(log_w, cap),
            anchor=anchor,
            loss_agg_mode=loss_agg_mode,
        )
        return loss, metrics | {
            "clip_ratio": sequence_share(metrics["log_w"] > math.log(cap), inputs)
        }
    if level != "token":
        raise ValueError(f"tis: level must be token or sequence, got {level!r}")
    ratio = token_ratio(token_log_ratio(inputs, anchor).detach())
    return clipped_ratio_loss(inputs, ratio, 0.0, cap, loss_agg_mode)


def cispo_loss(
    inputs: LossInputs,
    *,
    weight_low: float = 0.0,
    weight_high: float = 5.0,
    anchor: str = "rollout",
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """CISPO: -clip(r, low, high) A log pi per token, the clipped ratio r = pi/mu a constant.

    MiniMax-M1, arXiv 2506.13585, eq. 4-5: the weight is clipped, not the update, so no token
    loses its gradient. Bounds here are on the ratio itself (their 1 - eps_low and 1 + eps_high).
    M1 leaves the lower bound out and tunes the upper one; 5 is what TRL recommends for it, after
    ScaleRL (arXiv 2510.13786).

    Raises:
        ValueError: not 0 <= weight_low <= 1 <= weight_high, or see `anchor_log_probs`.
    """
    check_weight_bounds("cispo", weight_low, weight_high)
    ratio = token_ratio(token_log_ratio(inputs, anchor).detach())
    return clipped_ratio_loss(inputs, ratio, weight_low, weight_high, loss_agg_mode)


def topr_loss(
    inputs: LossInputs,
    *,
    length_normalisation: str = "none",
    anchor: str = "rollout",
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """TOPR, tapered off-policy REINFORCE: weight 1 where A >= 0, min(W, 1) where A < 0.

    Le Roux et al., arXiv 2503.14286, the canonical form: positive samples are learned without a
    weight, negative ones fade as the policy leaves them. W is the sequence's product of ratios.

    Args:
        length_normalisation: "none", "sqrt" or "full", see `normalise_log_weight`. "full", W^(1/T)
            in place of W, is how the VESPO paper runs it (section 4.4: "with length
            normalization"; it gives no equation, and its code has no TOPR).

    Raises:
        ValueError: unknown normalisation, or see `anchor_log_probs`.
    """

    def weight_of(log_w: Tensor, advantage: Tensor) -> Tensor:
        normalised = normalise_log_weight(log_w, inputs.num_tokens, length_normalisation)
        return torch.where(advantage >= 0, 1.0, capped_weight(normalised, 1.0))

    return sequence_weighted_loss(inputs, weight_of, anchor=anchor, loss_agg_mode=loss_agg_mode)
