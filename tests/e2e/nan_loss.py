"""VESPO as a user's own loss, whose gradient is no number at some updates."""

import itertools

from vespo_openrlhf.losses import get_policy_loss

_CALLS = itertools.count()  # an update is one micro-batch
_VESPO = get_policy_loss("vespo")


def at_times_nan(inputs):
    loss, metrics = _VESPO(inputs)
    if next(_CALLS) in (2, 3, 6):
        loss = loss + (0 * inputs.log_probs.sum()).sqrt()  # 0, with a slope of 0 times infinity
    return loss, metrics
