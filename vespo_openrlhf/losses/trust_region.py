"""Which tokens a trust region leaves a gradient, by the sign of the advantage: (B, A) bool."""

from __future__ import annotations

from torch import Tensor

from .inputs import LossInputs, masked_mean


def within_clip(
    ratio: Tensor, advantages: Tensor, low: Tensor | float, high: Tensor | float
) -> Tensor:
    """True where min(r A, clip(r, low, high) A) has a gradient: r A's own, A r grad log pi.

    That is r <= high where A >= 0 and r >= low where A < 0: PPO clips only what has already gone
    the way it is pushed.
    """
    return ((advantages >= 0) & (ratio <= high)) | ((advantages < 0) & (ratio >= low))


def moved_as_pushed(log_ratio: Tensor, advantages: Tensor) -> Tensor:
    """True where A > 0 and r > 1, or A < 0 and r < 1: the tokens that PPO may clip."""
    return log_ratio * advantages > 0


def clip_share(keep: Tensor, inputs: LossInputs) -> Tensor:
    """Share of the action tokens whose gradient was taken away: 0-dim. A = 0 has none to take."""
    return masked_mean((~keep & (inputs.advantages != 0)).float(), inputs.mask)
