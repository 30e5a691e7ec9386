"""What makes a recorded sample one that cannot be trained on."""

from __future__ import annotations

from typing import NamedTuple

import numpy

from vespo_openrlhf.recorded.schema import REWARD_MODEL, RecordedSample

#: Reason -> what it means; a sample is left out of its group by the first that fits.
REASONS = {
    "not_sampled": "it failed when it was made: no tokens",
    "lengths": "mask or log-probs are of another length than the tokens",
    "vocabulary": "a token is outside the model's vocabulary",
    "too_long": "it has more tokens than --data.max_len",
    "no_log_probs": "the log-probs of the policy that sampled it are not known",
    "not_finite": "a log-prob of a sampled token, or the reward, is not finite",
    "no_reward": "it has no reward",
}


class Limits(NamedTuple):
    """What the model can take.

    Attributes:
        vocabulary: tokens of its embedding.
        max_length: tokens of prompt and response together.
        needs_log_probs: the behaviour policy is the recorded one.
    """

    vocabulary: int
    max_length: int
    needs_log_probs: bool = True


def problem(sample: RecordedSample, limits: Limits) -> str:
    """Which of `REASONS` speaks against the sample; "" if none does."""
    tokens, mask, log_probs = sample.tokens, sample.action_mask, sample.log_probs
    if tokens is None or mask is None or not len(tokens):
        return "not_sampled"
    if len(mask) != len(tokens) or (log_probs is not None and len(log_probs) != len(tokens)):
        return "lengths"
    if tokens.min() < 0 or tokens.max() >= limits.vocabulary:
        return "vocabulary"
    if len(tokens) > limits.max_length:
        return "too_long"
    if limits.needs_log_probs:
        if log_probs is None:
            return "no_log_probs"
        if not numpy.isfinite(log_probs[mask]).all():
            return "not_finite"
    if sample.reward is None:
        return "" if sample.failure == REWARD_MODEL else "no_reward"
    return "" if numpy.isfinite(sample.reward) else "not_finite"
