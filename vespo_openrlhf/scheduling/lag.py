"""Policy versions, the lag of a token, and the budget that bounds it.

The policy version is the number of optimizer updates done. A rollout batch of N mini-batches that
starts to train at version v uses its j-th mini-batch (j = 0..N-1) at version v + j, so a token
sampled at version u has the lag v + j - u there: time on the engine, time in the queue and the
place within the batch all count. The oldest token of a sample decides.

Under a bound a group has a deadline: the last version at which it may be used. Because every
update uses up one mini-batch of groups, "can all of these still be used in time?" is a count: as
many groups as have a deadline up to t must fit into the mini-batches from here to t. `LagBudget`
counts; policies/bounded.py keeps the bound.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

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
class LagOptions:
    """How old a trained token may be, and what is done about it. Flags: `--lag.{field}`.

    Args:
        max: L, the bound on the lag of the oldest token of any trained sample, in updates. None:
            the least that lets the next batch be generated while one trains.
        on_stale: what to do about a group that would become too old. "wait": the trainer waits
            for it. "drop": it is dropped and its prompt sent again; a prompt dropped twice is
            waited for. "keep": it is trained all the same, and counted; L is then no hard bound.
        sync_every: k, updates from one weight sync to the next. None: one sync per batch.
        target_ess: effective sample size of the importance weights, as a share of the batch in
            (0, 1), that the working lag is steered to, within `max`. None: the working lag is
            `max`.
        kv: what becomes of the KV cache of an unfinished response when its engine takes new
            weights. "recompute": it is computed again, so that a token depends on one version
            alone, that of its stamp. "keep": later tokens attend to what older weights made of
            the earlier ones; their stamp is the version that sampled them.
        policy: what decides: a name in `policies`, package.module:Class or path/to/file.py:Class.
            Options that it does not use are left at their defaults.

    Raises:
        ValueError: a value out of range.
    """

    max: int | None = None
    on_stale: OnStale = "wait"
    sync_every: int | None = None
    target_ess: float | None = None
    kv: KV = "recompute"
    policy: str = "bounded"

    def __post_init__(self) -> None:
        if self.max is not None and self.max < 0:
            raise ValueError(f"lag.max is a number of updates, at least 0, got {self.max}")
        if self.on_stale not in get_args(OnStale):
            names = ", ".join(get_args(OnStale))
            raise ValueError(f"lag.on_stale must be one of {names}, got {self.on_stale!r}")
        if self.kv not in get_args(KV):
            raise ValueError(f"lag.kv must be one of {', '.join(get_args(KV))}, got {self.kv!r}")
        if self.sync_every is not None and self.sync_every < 1:
            raise ValueError(f"lag.sync_every is at least 1 update, got {self.sync_every}")
        if self.target_ess is not None and not 0 < self.target_ess < 1:
            raise ValueError(f"lag.target_ess lies between 0 and 1, got {self.target_ess}")

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
