"""Policy versions, the lag of a token, and the budget that bounds it.

The policy version is the number of optimizer updates done. A rollout batch of N mini-batches that
starts to train at version v uses its j-th mini-batch (j = 0..N-1) at version v + j, so a token
sampled at version u has the lag v + j - u there: time on the engine, time in the queue and the
place within the batch all count. The oldest token of a sample decides.

A group gets a deadline when it is dispatched: the last version at which it may be used. Because
every update uses up one mini-batch of groups, "can all of these still be used in time?" is a
count: as many groups as have a deadline up to t must fit into the mini-batches from here to t.
Admission keeps that true for new groups, and the batch that goes to the trainer is chosen so that
it stays true for the rest. Together they make the bound hard, however long a response takes.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ..options import Options, option

OnStale = Literal["wait", "drop", "keep"]
KV = Literal["recompute", "keep"]


#: A response as (version, tokens) pairs: so many consecutive tokens sampled by that version. The
#: first is the version of its oldest token, the last the version it was completed with.
Spans = tuple[tuple[int, int], ...]


def check_spans(spans: Sequence[tuple[int, int]], dispatched: int, newest: int) -> Spans:
    """`spans` as they were given, if they can be.

    Args:
        spans: (version, tokens) pairs of one response; at least one.
        dispatched: the version every engine had when the request was sent.
        newest: the trainer's version.

    Raises:
        ValueError: no span, versions that go back, or a version outside dispatched..newest, which
            an engine with the right weights cannot have.
    """
    if not spans:
        raise ValueError("a response needs at least one (version, tokens) span")
    previous = dispatched
    for version, tokens in spans:
        if version < previous or version > newest or tokens < 0:
            raise ValueError(
                f"token versions {list(spans)} do not fit a request dispatched at "
                f"version {dispatched} while the trainer is at version {newest}: versions must "
                "not fall, and stay between the two"
            )
        previous = version
    return tuple(spans)


class TokenVersions:
    """The version of every token on one engine, from token counts at each weight update.

    Lives beside the engine. Reading its stream token by token costs the square of the length
    where log-probs are asked for; reading the counts of the unfinished responses once per update
    does not.

    Args:
        version: of the weights the engine has now.
    """

    def __init__(self, version: int) -> None:
        self.version = version
        self._spans: dict[Hashable, list[tuple[int, int]]] = {}

    def update(self, version: int, token_counts: Mapping[Hashable, int]) -> None:
        """The engine, paused, takes new weights.

        Args:
            version: of the new weights.
            token_counts: tokens sampled so far, per unfinished response. One that has none yet
                may be left out; one that had some and is left out was aborted, and is forgotten.

        Raises:
            ValueError: `version` is older than the present one, or a count has fallen.
        """
        if version < self.version:
            raise ValueError(f"weights of version {version} after version {self.version}")
        for response, tokens in token_counts.items():
            self._extend(response, tokens)
        self._spans = {r: spans for r, spans in self._spans.items() if r in token_counts}
        self.version = version

    def finish(self, response: Hashable, tokens: int) -> Spans:
        """The spans of a response that ended with `tokens` tokens in all; it is then forgotten."""
        self._extend(response, tokens)
        return tuple(self._spans.pop(response, [(self.version, 0)]))

    def _extend(self, response: Hashable, tokens: int) -> None:
        spans = self._spans.get(response, [])
        new_tokens = tokens - sum(count for _, count in spans)
        if new_tokens < 0:
            raise ValueError(
                f"response {response!r} has {tokens} tokens and had {tokens - new_tokens} before"
            )
        if new_tokens:
            self._spans[response] = [*spans, (self.version, new_tokens)]


@dataclass(frozen=True)
class LagOptions(Options):
    """How old a trained token may be, and what is done about it."""

    max: int | None = option(
        None,
        "L, the bound on the lag of the oldest token of any trained sample: time on the engine, in "
        "the queue and in the batch all count. 0 is on-policy and needs one update per rollout "
        "batch; higher lets engines and trainer wait less (default: the least that lets the next "
        "batch be generated while one trains, 2N - 1 for N updates per rollout batch)",
        at_least=0,
        because="it is a number of updates",
    )
    on_stale: OnStale = option(
        "wait",
        "about a group that would become too old: the trainer waits for it (wait); it is dropped "
        "and its prompt sent again, at most twice (drop); it is trained all the same and counted, "
        "which makes the bound soft (keep)",
    )
    sync_every: int | None = option(
        None,
        "k, updates from one weight sync to the next; above N it adds to the lag (default: one "
        "sync per rollout batch, k = N)",
        at_least=1,
    )
    target_ess: float | None = option(
        None,
        "steer the working lag, within --lag.max, to this effective sample size of the importance "
        "weights, as a share of the batch between 0 and 1 (default: the working lag is --lag.max)",
        above=0,
        below=1,
    )
    kv: KV = option(
        "recompute",
        "the KV cache of unfinished responses when an engine takes new weights, with "
        "--train.partial_rollout_enable: recompute it, so that a token depends on the weights of "
        "its version alone; or keep it, which costs nothing, and later tokens attend to what older "
        "weights made of the earlier ones",
    )
    policy: str = option(
        "bounded",
        "what decides when a prompt is sent and where, which groups train next, and when the "
        "engines take new weights: bounded keeps to --lag.max; fifo has no bound, and the lag is "
        "what comes of it; or a class of yours, as package.module:Class or path/to/file.py:Class",
    )

    def synchronous(self, updates_per_batch: int) -> LagOptions:
        """The same for the synchronous loop: the policy with a bound, and the least bound that N
        and k allow. Then no batch is begun before the engines have the weights of the one
        before."""
        least = minimum_lag(updates_per_batch, self.sync_every or updates_per_batch)
        limit = least if self.max is None else min(self.max, least)
        return replace(self, max=limit, policy=LagOptions.policy)


@dataclass(frozen=True)
class LagBudget:
    """What a bound of `limit` updates leaves room for.

    Args:
        limit: L, in updates.
        updates_per_batch: N, mini-batches (updates) per rollout batch.
        groups_per_update: groups in a mini-batch.
        sync_every: k, updates from one weight sync to the next.

    Raises:
        ValueError: even a set-up without any queue would break the bound; the message has the
            arithmetic and what to write instead.
    """

    limit: int
    updates_per_batch: int
    groups_per_update: int
    sync_every: int

    def __post_init__(self) -> None:
        if self.limit >= self.minimum:
            return
        n, k = self.updates_per_batch, self.sync_every
        behind = k - math.gcd(n, k)
        advice = f"Set lag.max to at least {self.minimum}"
        if n > 1:
            advice += ", or make fewer updates per rollout batch (rollout batch / mini-batch)"
        if behind:
            advice += f", or set lag.sync_every to {n}, the updates of one batch"
        raise ValueError(
            f"lag.max {self.limit} cannot be kept: the last of {n} mini-batches is used {n - 1} "
            f"updates after its rollout batch began to train, and with a weight sync every {k} "
            f"updates the engines may be {behind} updates behind when it begins: "
            f"{n - 1} + {behind} = {self.minimum} > {self.limit}. {advice}."
        )

    @classmethod
    def from_options(
        cls, options: LagOptions, updates_per_batch: int, groups_per_update: int
    ) -> LagBudget:
        """The budget of a run. Raises ValueError where it cannot be kept."""
        sync_every = options.sync_every or updates_per_batch
        overlap = minimum_lag(updates_per_batch, sync_every) + updates_per_batch
        limit = overlap if options.max is None else options.max
        return cls(limit, updates_per_batch, groups_per_update, sync_every)

    @property
    def minimum(self) -> int:
        """The least lag bound that N and k allow, in updates: that of the synchronous loop."""
        return minimum_lag(self.updates_per_batch, self.sync_every)

    def room(self, deadline: int, position: int) -> int:
        """Groups that can be used from version `position` up to version `deadline`.

        With deadline = u + L and one batch per update this is AReaL's rule: at most u + L + 1
        batches admitted in all, of which `position` have already been handed to the trainer.
        """
        return max(0, deadline - position + 1) * self.groups_per_update


def minimum_lag(updates_per_batch: int, sync_every: int) -> int:
    """The greatest lag of the synchronous loop, in updates: (N - 1) + (k - gcd(N, k)).

    The last mini-batch comes N - 1 updates after the first. Batches begin at multiples of N, the
    engines are given the multiples of k, and multiples of N lie up to k - gcd(N, k) above those.
    """
    return updates_per_batch - 1 + sync_every - math.gcd(updates_per_batch, sync_every)
