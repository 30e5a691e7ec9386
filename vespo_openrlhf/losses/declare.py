"""What a loss says about itself beside its signature, as attributes of the function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import Tensor

Statistics = Callable[..., Tensor]
StepScale = Callable[[Mapping[str, Tensor]], Tensor]
_Loss = TypeVar("_Loss", bound=Callable[..., Any])


def declares(
    *,
    needs_rollout_log_probs: bool = True,
    reads_old_log_probs: bool = True,
    statistics: Statistics | None = None,
    step_scale: StepScale | None = None,
) -> Callable[[_Loss], _Loss]:
    """A decorator that gives a loss its attributes; without it a loss has these defaults.

    Args:
        needs_rollout_log_probs, reads_old_log_probs: see `PolicyLoss`. For a user's loss: of ours
            both are found out, as they depend on its options.
        statistics: `statistics(inputs, **options) -> (K,) float64`, sums over the sequences of
            `inputs`, for a loss that depends on all sequences of an optimizer update. It is given
            those options of the loss that it names. The sum over an update's micro-batches and
            ranks is what the loss reads in `LossInputs.statistics`.
        step_scale: `step_scale(per_sequence) -> 0-dim` in [0, 1], the factor on the learning rate
            of an update, from the loss's (N,) metrics of all its sequences.
    """

    attributes = {
        "needs_rollout_log_probs": needs_rollout_log_probs,
        "reads_old_log_probs": reads_old_log_probs,
        "statistics": statistics,
        "step_scale": step_scale,
    }

    def declare(loss: _Loss) -> _Loss:
        vars(loss).update(attributes)
        return loss

    return declare
