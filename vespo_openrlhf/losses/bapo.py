"""BAPO: clip bounds that give the good tokens their share of the loss."""

from __future__ import annotations

import torch
from torch import Tensor

from .diagnostics import Metrics
from .inputs import LossInputs, update_statistics
from .ratios import anchor_log_probs, token_log_ratio, token_ratio
from .trust_region import clip_share, within_clip
from .weighted import weighted_log_prob_loss


def _grid(start: float, end: float, step: float, like: Tensor) -> Tensor:
    """start, start + step, ... up to end, on the device of `like`, in float32."""
    return start + step * torch.arange(_size(start, end, step), device=like.device)


def _size(start: float, end: float, step: float) -> int:
    return int((end - start) / step + 1e-6) + 1


def bapo_statistics(
    inputs: LossInputs,
    *,
    low_start: float,
    low_max: float,
    low_step: float,
    high_start: float,
    high_max: float,
    high_step: float,
    anchor: str,
) -> Tensor:
    """(4 (K + 1),) float64: sums of mu |A| and mu |A| r between the K bounds that are tried, for
    A < 0 and A > 0; from which the shares of eq. 8 follow for every bound."""
    _check_grids(low_start, low_max, low_step, high_start, high_max, high_step)
    mask = inputs.mask
    behaviour = anchor_log_probs(inputs, anchor).float()
    log_ratio = torch.where(mask, inputs.log_probs.float() - behaviour, 0.0)
    ratio = token_ratio(log_ratio)
    num_low, num_high = _size(low_start, low_max, low_step), _size(high_start, high_max, high_step)
    # The number of bounds below the ratio; torch.bucketize takes ten times as long.
    bins = ((ratio - low_start) / low_step).ceil_().clamp_(0, num_low)
    bins += ((ratio - high_start) / high_step).ceil_().clamp_(0, num_high)
    num_bins = num_low + num_high + 1
    # A log-prob that is not a number must spoil the sums, and not be an index out of range.
    bins = bins.nan_to_num_(0.0).int().add_((inputs.advantages > 0).int(), alpha=num_bins).flatten()
    size = torch.where(mask, behaviour.exp() * inputs.advantages.float(), 0.0).abs_().flatten()
    sums = size.new_zeros(2, 2 * num_bins)
    sums[0].index_add_(0, bins, size)
    sums[1].index_add_(0, bins, size.mul_(ratio.flatten()))
    return sums.double().flatten()


def _check_grids(*grids: float) -> None:
    low_start, low_max, low_step, high_start, high_max, high_step = grids
    if not 0 <= low_start <= low_max <= 1 <= high_start <= high_max:
        raise ValueError(
            "bapo: 0 <= low_start <= low_max <= 1 <= high_start <= high_max is needed, got "
            f"{low_start}, {low_max}, {high_start} and {high_max}"
        )
    if not (low_step > 0 and high_step > 0):
        raise ValueError(
            f"bapo: low_step and high_step must be positive, got {low_step} and {high_step}"
        )


def bapo_bounds(
    statistics: Tensor,
    target: float,
    low: tuple[float, float, float],
    high: tuple[float, float, float],
) -> tuple[Tensor, Tensor]:
    """The clip bounds (c_low, c_high) of algorithm 1, 0-dim each.

    c_high grows from its start until the good tokens' share is `target`; where its maximum does
    not suffice, c_low grows. Without any token: where they start.

    Args:
        statistics: of the whole update, see `bapo_statistics`.
        target: the share rho_0 of good tokens in the loss.
        low, high: start, maximum and step of each bound.
    """
    lows, highs = _grid(*low, statistics), _grid(*high, statistics)
    # (2 sums, 2 signs, K + 1 bins); `below[..., j]` is the sum over ratios up to bound j.
    sums = statistics.view(2, 2, -1)
    below = sums.cumsum(dim=-1)
    above = below[..., -1:] - below
    n = len(lows)
    # Eq. 8 with absolute values term by term: max(r, c_low) |A| where A < 0, min(r, c_high) A.
    bad = above[1, 0, :n] + lows * below[0, 0, :n]
    good = below[1, 1, n:-1] + highs * above[0, 1, n:-1]
    enough_by_high = good >= target * (good + bad[0])
    enough_by_low = good[-1] >= target * (good[-1] + bad)
    c_high = _first(highs, enough_by_high)
    c_low = torch.where(enough_by_high.any(), lows[0], _first(lows, enough_by_low))
    return c_low, c_high


def _first(values: Tensor, wanted: Tensor) -> Tensor:
    """The first of `values` (increasing) that is wanted, or the last: 0-dim."""
    return torch.where(wanted, values, values[-1]).min()


def bapo_loss(
    inputs: LossInputs,
    *,
    target: float = 0.4,
    low_start: float = 0.6,
    low_max: float = 0.9,
    low_step: float = 0.02,
    high_start: float = 1.2,
    high_max: float = 3.0,
    high_step: float = 0.05,
    anchor: str = "rollout",
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """BAPO: the gradient of min(r A, clip(r, c_low, c_high) A), its bounds set by balance.

    The bounds grow from [low_start, high_start] until good tokens (A > 0) make `target` of
    sum mu |min(r A, clip(r, c_low, c_high) A)|, over a whole update: see `bapo_statistics`. A
    higher c_high lets rare good tokens in, a higher c_low keeps rare bad ones out. Written as a
    weight on A log pi: r where the clip leaves a gradient, else 0.

    Xi et al., arXiv 2510.18927, eq. 8 and algorithm 1, with the numbers of its section 5.1. Their
    code compares good with bad instead of with all, leaves mu out and moves c_low first.

    Raises:
        ValueError: an option out of range, no statistics in the batch, or see `anchor_log_probs`.
    """
    low, high = (low_start, low_max, low_step), (high_start, high_max, high_step)
    _check_grids(*low, *high)
    if not 0 <= target <= 1:
        raise ValueError(f"bapo: target must be in [0, 1], got {target}")
    c_low, c_high = bapo_bounds(update_statistics("bapo", inputs), target, low, high)
    with torch.no_grad():
        weight = token_ratio(token_log_ratio(inputs, anchor))
        keep = within_clip(weight, inputs.advantages, c_low, c_high)
        weight.mul_(keep)
    loss = weighted_log_prob_loss(inputs, weight, loss_agg_mode)
    bounds = {"c_low": c_low, "c_high": c_high}
    return loss, {"phi": weight, "clip_ratio": clip_share(keep, inputs)} | bounds


bapo_loss.statistics = bapo_statistics  # type: ignore[attr-defined]
