"""Trust regions: their bounds, checked, and which tokens they leave a gradient, (B, A) bool."""

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


def check_clip(name: str, clip_low: float, clip_high: float) -> None:
    """The distances of a clip from a ratio of 1. Raises ValueError where they are none."""
    if not (0 <= clip_low <= 1 and clip_high >= 0):
        raise ValueError(
            f"{name}: clip_low must be in [0, 1] and clip_high at least 0, "
            f"got {clip_low} and {clip_high}"
        )


def check_weight_bounds(name: str, low: float, high: float) -> None:
    """The bounds of a weight themselves. Raises ValueError where 1 is not between them."""
    if not 0 <= low <= 1 <= high:
        raise ValueError(
            f"{name}: 0 <= weight_low <= 1 <= weight_high is needed, got {low} and {high}"
        )
