"""What makes a recorded sample one that cannot be trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy

if TYPE_CHECKING:
    import pyarrow

#: Reason -> what it means. Of several the first counts.
REASONS = {
    "not_sampled": "it failed when it was made, and has no tokens",
    "lengths": "its mask or its log-probs are of another length than its tokens",
    "vocabulary": "a token is outside the model's vocabulary",
    "too_long": "it has more tokens than --data.max_len",
    "no_log_probs": "the log-probs of the policy that sampled it are not known",
    "not_finite": "a log-prob of a sampled token, or the reward, is not finite",
    "no_reward": "it has no reward, and the run has no reward model",
}


class Limits(NamedTuple):
    """What a run can take.

    Attributes:
        vocabulary: tokens of the model's embedding.
        max_length: tokens of prompt and response together.
        needs_log_probs: the behaviour policy is the recorded one.
        needs_reward: the recorded reward is trained on, and no other.
    """

    vocabulary: int
    max_length: int
    needs_log_probs: bool = True
    needs_reward: bool = True


def problems(table: pyarrow.Table, limits: Limits) -> list[str]:
    """For each row of a shard which of `REASONS` speaks against it; "" where none does."""
    found = numpy.full(len(table), "", dtype=object)

    def note(reason: str, rows: Any) -> None:
        found[rows & (found == "")] = reason

    tokens, mask, log_probs = (
        table.column(name).combine_chunks() for name in ("tokens", "action_mask", "log_probs")
    )
    length, known = _lengths(tokens), log_probs.is_valid().to_numpy(zero_copy_only=False)
    note("not_sampled", length == 0)
    note("lengths", (_lengths(mask) != length) | (known & (_lengths(log_probs) != length)))
    whole = numpy.flatnonzero(found == "")
    if len(whole):
        values = tokens.take(whole).flatten().to_numpy()
        outside = (values < 0) | (values >= limits.vocabulary)
        note("vocabulary", _any_of_row(outside, whole, length, len(table)))
    note("too_long", length > limits.max_length)
    if limits.needs_log_probs:
        note("no_log_probs", ~known)
        told = numpy.flatnonzero((found == "") & known)
        if len(told):
            sampled = mask.take(told).flatten().to_numpy(zero_copy_only=False)
            broken = sampled & ~numpy.isfinite(log_probs.take(told).flatten().to_numpy())
            note("not_finite", _any_of_row(broken, told, length, len(table)))
    if limits.needs_reward:
        rewards = table.column("reward")
        note("no_reward", ~rewards.is_valid().to_numpy())
        note("not_finite", ~numpy.isfinite(rewards.fill_null(0.0).to_numpy()))
    reasons: list[str] = found.tolist()
    return reasons


def _lengths(column: Any) -> Any:
    return column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)


def _any_of_row(flags: Any, rows: Any, length: Any, total: int) -> Any:
    """(total,) bool, from the flags of each token of these `rows`, none of which is empty."""
    starts = numpy.concatenate([[0], numpy.cumsum(length[rows])[:-1]])
    found = numpy.zeros(total, dtype=bool)
    found[rows] = numpy.logical_or.reduceat(flags, starts)
    return found
