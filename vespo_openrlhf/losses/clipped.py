"""Losses whose gradient flows through the importance ratio, held back by a clip or a soft gate.

ppo (GRPO), decoupled_ppo, sapo on token ratios; gspo, gmpo on a mean ratio per sequence.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .diagnostics import Metrics
from .inputs import LossInputs, aggregate, masked_mean, zero_masked
from .ratios import (
    anchor_log_probs,
    sequence_advantage,
    token_log_ratio,
    token_ratio,
)
from .trust_region import check_clip


def _clipped_surrogate(
    ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float, dual_clip: float | None
) -> tuple[Tensor, Tensor]:
    """PPO's pessimistic surrogate, written by the sign of the advantage.

    min(r A, clip(r, 1 - low, 1 + high) A) is min(r, 1 + high) A where A >= 0 and
    max(r, 1 - low) A where A < 0; the dual clip bounds the latter's ratio from above.

    Returns:
        The loss per entry, and a bool tensor that is True where the clip took effect.
    """
    upper = ratio.clamp(max=1 + clip_high)
    lower = ratio.clamp(min=1 - clip_low, max=dual_clip)
    loss = -torch.where(advantages >= 0, upper, lower) * advantages
    # The dual clip is not counted, as in OpenRLHF's clip_ratio; nor is A = 0, which has no clip.
    clipped = torch.where(advantages > 0, ratio > 1 + clip_high, ratio < 1 - clip_low)
    return loss, clipped & (advantages != 0)


def _mismatch_weight(
    inputs: LossInputs, mode: str, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """(B, A) weight old/rollout with values outside [low, high] clamped ("clip") or dropped
    ("mask"), constant; and the share of action tokens that were outside."""
    old, rollout = (
        zero_masked(anchor_log_probs(inputs, anchor).detach(), inputs.mask).float()
        for anchor in ("old", "rollout")
    )
    weight = token_ratio(old - rollout)
    outside = (weight < low) | (weight > high)
    bounded = weight.clamp(low, high) if mode == "clip" else weight.masked_fill(outside, 0.0)
    return bounded, masked_mean(outside.float(), inputs.mask)


def ppo_loss(
    inputs: LossInputs,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float | None = 3.0,
    anchor: str = "rollout",
    tis: str = "off",
    tis_low: float = 0.5,
    tis_high: float = 5.0,
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """PPO's clipped surrogate (arXiv 1707.06347) with clip-higher; with group advantages, GRPO.

    The clip 0.2/0.28 is DAPO's (arXiv 2503.14476) and that of the VESPO paper's GRPO runs. The
    dual clip is Ye et al., arXiv 1912.09729; 3 is the value of verl, with which those runs were
    made (clip_ratio_c in its core_algos.py; it has no switch).

    The ratio starts from the rollout log-probs by default, like every other loss here, so that
    one staleness means the same to all of them. OpenRLHF's own loss starts from the old ones:
    anchor="old" is equal to it, value and gradient, and so is tis="clip" or "mask" with it to
    OpenRLHF's token-level correction (a factor old/rollout bounded to [tis_low, tis_high];
    Yao et al. 2025 with "clip", IcePop with "mask").

    Args:
        dual_clip: bound on the ratio where A < 0, above 1; None or inf for none.
        tis: "off", "clip" or "mask".

    Raises:
        ValueError: an option out of range; `tis` with the rollout anchor, whose ratio already
            contains old/rollout; the anchor's log-probs are missing.
    """
    check_clip("ppo", clip_low, clip_high)
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"ppo: dual_clip must be above 1, got {dual_clip}")
    if tis not in ("off", "clip", "mask"):
        raise ValueError(f"ppo: tis must be off, clip or mask, got {tis!r}")
    if tis != "off" and anchor == "rollout":
        raise ValueError(
            "ppo: tis corrects the engine-to-trainer mismatch, and the ratio anchored on the "
            "rollout log-probs already contains it: set anchor 'old', or tis 'off'"
        )
    if not 0 <= tis_low <= tis_high:
        raise ValueError(f"ppo: 0 <= tis_low <= tis_high is needed, got {tis_low} and {tis_high}")
    ratio = token_ratio(token_log_ratio(inputs, anchor))
    advantages = zero_masked(inputs.advantages, inputs.mask)
    per_token, clipped = _clipped_surrogate(ratio, advantages, clip_low, clip_high, dual_clip)
    metrics = {"clip_ratio": masked_mean(clipped.float(), inputs.mask)}
    if tis != "off":
        weight, metrics["is_filter_ratio"] = _mismatch_weight(inputs, tis, tis_low, tis_high)
        per_token = per_token * weight
    return aggregate(per_token, inputs, loss_agg_mode), metrics


def decoupled_ppo_loss(
    inputs: LossInputs,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    behaviour_cap: float = 5.0,
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """PPO with the proximal policy (old) apart from the behaviour policy (rollout).

    -(old/rollout) min(u A, clip(u) A) with u = pi/old: the clip keeps the update near a recent
    policy while the constant weight corrects for the one that sampled. Hilton et al., arXiv
    2110.00641; for asynchronous LLM training AReaL, arXiv 2505.24298, whose code drops tokens
    with a weight above a cap, 5 in its examples. The clip is PPO's.

    Needs both old_log_probs and rollout_log_probs, so it has no anchor to choose.

    Raises:
        ValueError: an option out of range, or one of the two log-probs is missing.
    """
    check_clip("decoupled_ppo", clip_low, clip_high)
    if not behaviour_cap > 0:
        raise ValueError(f"decoupled_ppo: behaviour_cap must be positive, got {behaviour_cap}")
    ratio = token_ratio(token_log_ratio(inputs, "old"))
    advantages = zero_masked(inputs.advantages, inputs.mask)
    per_token, clipped = _clipped_surrogate(ratio, advantages, clip_low, clip_high, None)
    weight, filtered = _mismatch_weight(inputs, "mask", 0.0, behaviour_cap)
    metrics = {"clip_ratio": masked_mean(clipped.float(), inputs.mask)}
    metrics["is_filter_ratio"] = filtered
    return aggregate(per_token * weight, inputs, loss_agg_mode), metrics


def sapo_loss(
    inputs: LossInputs,
    *,
    tau_pos: float = 1.0,
    tau_neg: float = 1.05,
    anchor: str = "rollout",
    loss_agg_mode: str = "seq-mean-token-mean",
) -> tuple[Tensor, Metrics]:
    """SAPO: -(4/tau) sigmoid(tau (r - 1)) A per token, a soft gate in place of the clip.

    Gao et al., arXiv 2511.20347; tau 1.0 where A >= 0 and 1.05 where A < 0 are the paper's, and so
    is the mean over sequences of means over tokens (also in verl's core_algos.py and in TRL). The
    factor 4/tau makes the gradient at r = 1 that of the unclipped surrogate.

    Raises:
        ValueError: a tau that is not positive, or see `anchor_log_probs`.
    """
    if not (tau_pos > 0 and tau_neg > 0):
        raise ValueError(f"sapo: tau_pos and tau_neg must be positive, got {tau_pos} and {tau_neg}")
    ratio = token_ratio(token_log_ratio(inputs, anchor))
    advantages = zero_masked(inputs.advantages, inputs.mask)
    tau = torch.full_like(ratio, tau_neg).masked_fill_(advantages >= 0, tau_pos)
    gate = torch.sigmoid(tau * (ratio - 1)) * (4 / tau)
    return aggregate(-gate * advantages, inputs, loss_agg_mode), {}


def gspo_loss(
    inputs: LossInputs,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    anchor: str = "rollout",
) -> tuple[Tensor, Metrics]:
    """GSPO: PPO's clip on the sequence's geometric-mean ratio, exp(mean log-ratio).

    Zheng et al., arXiv 2507.18071; the clip 3e-4/4e-4 and the mean over sequences are the
    paper's, so there is no aggregation mode to choose.

    Raises:
        ValueError: an option out of range, or see `anchor_log_probs`.
    """
    check_clip("gspo", clip_low, clip_high)
    log_ratio = token_log_ratio(inputs, anchor)
    mean_log_ratio = log_ratio.sum(dim=-1) / inputs.num_tokens.clamp(min=1)
    ratio = token_ratio(mean_log_ratio).unsqueeze(-1)
    advantages = zero_masked(inputs.advantages, inputs.mask)
    per_token, clipped = _clipped_surrogate(ratio, advantages, clip_low, clip_high, None)
    metrics = {"clip_ratio": masked_mean(clipped.float(), inputs.mask)}
    return aggregate(per_token, inputs, "seq-mean-token-mean"), metrics


def gmpo_loss(
    inputs: LossInputs,
    *,
    clip_low: float = 0.4,
    clip_high: float = 0.4,
    anchor: str = "rollout",
) -> tuple[Tensor, Metrics]:
    """GMPO: each token's log-ratio is clipped, then their geometric mean weighs the sequence.

    Zhao et al., arXiv 2507.20673: the clip is in log space, exp(-0.4) to exp(0.4), and one-sided
    by the sign of the sequence's advantage; the loss is the mean over sequences.

    Raises:
        ValueError: a negative clip, or see `anchor_log_probs`.
    """
    if clip_low < 0 or clip_high < 0:
        raise ValueError(
            f"gmpo: clip_low and clip_high must be at least 0, got {clip_low} and {clip_high}"
        )
    log_ratio = token_log_ratio(inputs, anchor)
    advantage = sequence_advantage(inputs).to(log_ratio.dtype)
    positive = (advantage >= 0).unsqueeze(-1)
    bounded = torch.where(positive, log_ratio.clamp(max=clip_high), log_ratio.clamp(min=-clip_low))
    mean_log_ratio = bounded.sum(dim=-1) / inputs.num_tokens.clamp(min=1)
    per_sequence = -token_ratio(mean_log_ratio) * advantage
    metrics = {"clip_ratio": masked_mean((bounded != log_ratio).float(), inputs.mask)}
    per_token = per_sequence.unsqueeze(-1).expand_as(log_ratio)
    return aggregate(per_token, inputs, "seq-mean-token-mean"), metrics
