"""Importance weights, in log space.

The behaviour policy mu is what the engine sampled with. The anchor says which log-probs stand
for it: "rollout", the engine's own, or "old", the trainer's recomputation before the update. In
asynchronous training "old" is recomputed with weights that are already newer than the samples,
so it knows nothing of the lag, and "rollout" is the default everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .inputs import LossInputs, zero_masked

ANCHORS = ("rollout", "old")
NORMALISATIONS = ("none", "sqrt", "full")

# Token ratios are clamped to exp(+-20) before exp: beyond it every clipped or gated loss is flat,
# and exp(89) is inf in float32, whose gradient times a zero is nan. The value is verl's and
# OpenRLHF's. Sequence weights are not clamped: see sequence_log_weight.
TOKEN_LOG_RATIO_LIMIT = 20.0


def anchor_log_probs(inputs: LossInputs, anchor: str) -> Tensor:
    """(B, A) log-probs that stand for the behaviour policy.

    Raises:
        ValueError: unknown anchor, or the batch does not carry its log-probs.
    """
    if anchor == "rollout":
        if inputs.rollout_log_probs is None:
            raise ValueError(
                "rollout_log_probs is missing, and the anchor is 'rollout': give the log-probs "
                "that the engine sampled with"
            )
        return inputs.rollout_log_probs
    if anchor == "old":
        if inputs.old_log_probs is None:
            raise ValueError(
                "old_log_probs is missing, and the loss reads it: give the trainer's "
                "recomputation before the update"
            )
        return inputs.old_log_probs
    raise ValueError(f"anchor must be one of {', '.join(ANCHORS)}, got {anchor!r}")


def token_log_ratio(inputs: LossInputs, anchor: str) -> Tensor:
    """(B, A) log pi - log mu per token, with the gradient of log_probs; exactly 0 outside the mask.

    Float32, or float64 where log_probs is: bf16 has no digits left for a ratio near 1.
    """
    mask = inputs.mask
    reference = zero_masked(anchor_log_probs(inputs, anchor).detach(), mask)
    current = zero_masked(inputs.log_probs, mask)
    dtype = torch.promote_types(current.dtype, torch.float32)
    return current.to(dtype) - reference.to(dtype)


def token_ratio(log_ratio: Tensor) -> Tensor:
    """pi / mu from its log, of any shape, clamped to exp(+-20) in log space."""
    return log_ratio.clamp(-TOKEN_LOG_RATIO_LIMIT, TOKEN_LOG_RATIO_LIMIT).exp()


@torch.no_grad()
def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """(B,) float64 sum of a (B, A) tensor over the action tokens of each sequence.

    Float64, because phi's relative error is c1 times the error of log W. Over 65,536 tokens
    float32 loses up to 6e-1 added one by one and 2e-2 pairwise; float64 nothing that shows.
    """
    return zero_masked(values, mask).sum(dim=-1, dtype=torch.float64)


@torch.no_grad()
def sequence_log_weight(inputs: LossInputs, anchor: str, tis_cap: float | None = None) -> Tensor:
    """log W = sum over action tokens of log pi - log mu: (B,) float64, no gradient.

    A product of ratios, never divided by the length (`normalise_log_weight` is the paper's
    ablation). Not clamped: the published code bounds every token and the sum at +-20, where phi
    is already below 1e-16, so the clamp changes nothing but exactness.

    Args:
        inputs: the micro-batch.
        anchor: "rollout" or "old".
        tis_cap: with the anchor "old", a factor old/rollout of every token, at most this, in W:
            truncated importance sampling of the engine-to-trainer mismatch (Yao et al., 2025, "Your
            efficient RL framework secretly brings you off-policy RL training"), where TRL's and
            verl's VESPO have it. None for none.

    Raises:
        ValueError: a cap with the rollout anchor, which holds old/rollout already, or one that is
            not positive; see `anchor_log_probs`.
    """
    if tis_cap is not None:
        _check_tis_cap(anchor, tis_cap)
    # The difference of two float64 sums. A float32 sum of float32 differences is off by 1e-5 at
    # 65,536 tokens, and by half an ulp of a single token's difference already.
    reference = anchor_log_probs(inputs, anchor)
    if tis_cap is not None:
        # pi/old * min(old/mu, cap) = pi / max(mu, old/cap)
        reference = reference.to(torch.promote_types(reference.dtype, torch.float32))
        rollout = anchor_log_probs(inputs, "rollout")
        reference = torch.maximum(rollout, reference - math.log(tis_cap))
    return masked_sum(inputs.log_probs, inputs.mask) - masked_sum(reference, inputs.mask)


def _check_tis_cap(anchor: str, tis_cap: float) -> None:
    if anchor == "rollout":
        raise ValueError(
            "tis_cap bounds a correction of the engine-to-trainer mismatch, and a weight anchored "
            "on the rollout log-probs already contains it, whole: set anchor 'old', or leave the "
            "cap out"
        )
    if isinstance(tis_cap, str) or not tis_cap > 0:
        raise ValueError(f"tis_cap must be a positive number, got {tis_cap!r}")


def normalise_log_weight(log_w: Tensor, num_tokens: Tensor, normalisation: str) -> Tensor:
    """log W divided by 1 ("none"), sqrt(T) ("sqrt") or T ("full"): the paper's ablations.

    Args:
        log_w: (B,) sequence log-weights.
        num_tokens: (B,) action tokens T of each sequence.

    Raises:
        ValueError: unknown normalisation.
    """
    if normalisation == "none":
        return log_w
    if normalisation == "sqrt":
        return log_w / num_tokens.clamp(min=1).to(log_w.dtype).sqrt()
    if normalisation == "full":
        return log_w / num_tokens.clamp(min=1)
    raise ValueError(
        f"length_normalisation must be one of {', '.join(NORMALISATIONS)}, got {normalisation!r}"
    )


@torch.no_grad()
def sequence_advantage(inputs: LossInputs) -> Tensor:
    """(B,) float64 mean advantage over the action tokens; 0 for a sequence without any.

    Its sign picks the kernel's coefficients. Not the first column: that may be masked.
    """
    return masked_sum(inputs.advantages, inputs.mask) / inputs.num_tokens.clamp(min=1)


def capped_weight(log_w: Tensor, cap: float) -> Tensor:
    """min(W, cap) from log W, without the overflow of exp(log W)."""
    return log_w.clamp(max=math.log(cap)).exp()
