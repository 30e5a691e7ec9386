"""Version-stamped groups: all n samples of one prompt.

A group is dispatched, completed, trained or dropped as a whole. live.py holds those that are in
flight or complete.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .lag import Spans, check_spans
from .ledger import Prompt

_ON_ENGINE, _AWAY, _GENERATED, _SETTLED = range(4)


@dataclass(slots=True)
class _Episode:
    """Of a sample that has been away: since when, and how long before, in seconds; and the version
    of its first token at least, once it is known."""

    since: float = 0.0
    seconds: float = 0.0
    first_version: int | None = None

    def end_stay(self, now: float) -> None:
        self.seconds += now - self.since


class Group:
    """One dispatch of a prompt and its n samples.

    Attributes:
        ticket: unique per dispatch; the engine's events name it. A prompt that is sent again gets
            a new one, so that events of the old dispatch can be told apart.
        engine: where all its samples are generated, so that they share the prompt's prefix.
        dispatched_version: the version every engine had at dispatch; no token is older.
        lag, waited_for: what the policy said at dispatch, see `policy.Send`.
        deadline: that lag after its dispatch; once it is known after its oldest token.
        spans, payloads, rewards: per sample. A payload is whatever the engine handed over with
            the sample, never looked into here; a reward of None is one that never came.
        unfinished, unscored: how many samples are not generated yet, or have no verdict yet.
        on_engine: how many of the unfinished ones are not away.
        dispatched_at, generated_at (per sample), completed_at: seconds on the scheduler's clock.
    """

    __slots__ = (
        "_episodes",
        "completed_at",
        "deadline",
        "dispatched_at",
        "dispatched_version",
        "engine",
        "generated_at",
        "lag",
        "on_engine",
        "payloads",
        "prompt",
        "rewards",
        "sample_status",
        "spans",
        "ticket",
        "unfinished",
        "unscored",
        "waited_for",
    )

    def __init__(
        self,
        ticket: int,
        prompt: Prompt,
        samples: int,
        engine: str,
        version: int,
        lag: int,
        waited_for: bool,
        dispatched_at: float,
    ) -> None:
        self.ticket = ticket
        self.prompt = prompt
        self.engine = engine
        self.dispatched_version = version
        self.lag = lag
        self.deadline = version + lag
        self.waited_for = waited_for
        self.dispatched_at = dispatched_at
        self.completed_at = dispatched_at
        self.generated_at = [dispatched_at] * samples
        self.spans: list[Spans] = [()] * samples
        self.payloads: list[Any] = [None] * samples
        self.rewards: list[float | None] = [None] * samples
        self.sample_status = bytearray(samples)
        self.unfinished = samples
        self.unscored = samples
        self.on_engine = samples
        self._episodes: dict[int, _Episode] = {}

    @property
    def oldest_version(self) -> int:
        """The version of the oldest token of a complete group."""
        return min(spans[0][0] for spans in self.spans)

    @property
    def scored(self) -> int:
        """Samples that have a reward."""
        return sum(reward is not None for reward in self.rewards)

    def leave(self, sample: int, now: float) -> None:
        """A sample is away from its engine, with its environment, from now on.

        Raises:
            ValueError: it is not on the engine.
        """
        if not self._has_status(sample, _ON_ENGINE):
            raise ValueError(f"request {self.ticket} has no sample {sample} on its engine")
        self._episodes.setdefault(sample, _Episode()).since = now
        self.sample_status[sample] = _AWAY
        self.on_engine -= 1

    def come_back(self, sample: int, version: int, newest: int, now: float) -> bool:
        """It asks for a turn, of `version` or younger, while the trainer's is `newest`.

        Returns:
            Whether it is its first.

        Raises:
            ValueError: it is not away, or no engine can have that version.
        """
        if not self._has_status(sample, _AWAY):
            raise ValueError(f"request {self.ticket} has no sample {sample} that is away")
        check_spans([(version, 0)], self.dispatched_version, newest)
        self.sample_status[sample] = _ON_ENGINE
        self.on_engine += 1
        episode = self._episodes[sample]
        episode.end_stay(now)
        if episode.first_version is not None:
            return False
        episode.first_version = version
        return True

    @property
    def earliest_version(self) -> int:
        """No token of the group is older, nor will be, as far as that is known."""
        versions = [episode.first_version for episode in self._episodes.values()]
        known = [version for version in versions if version is not None]
        return min(known) if len(known) == len(self.spans) else self.dispatched_version

    def away_seconds(self, sample: int) -> float:
        """How long the sample has been away in all, up to when it came back or ended."""
        episode = self._episodes.get(sample)
        return episode.seconds if episode else 0.0

    def generate(
        self, sample: int, spans: Sequence[tuple[int, int]], newest: int, payload: Any, now: float
    ) -> bool:
        """A sample was generated, while the trainer's version was `newest`.

        Returns:
            Whether it was away.

        Raises:
            ValueError: it was generated before, or its spans cannot be.
        """
        away = not self._has_status(sample, _ON_ENGINE)
        if away and not self._has_status(sample, _AWAY):
            raise ValueError(f"request {self.ticket} has no sample {sample} to generate")
        oldest, episode = self.dispatched_version, self._episodes.get(sample)
        if episode and episode.first_version is not None:
            oldest = episode.first_version  # on which a deadline may hang
        self.spans[sample] = check_spans(spans, oldest, newest)
        if episode and away:
            episode.end_stay(now)
        else:
            self.on_engine -= 1
        self.payloads[sample] = payload
        self.generated_at[sample] = now
        self.sample_status[sample] = _GENERATED
        self.unfinished -= 1
        return away

    def settle(self, sample: int, reward: float | None) -> bool:
        """The verdict on a sample; None if there will be none.

        Returns:
            False if it had been settled before.

        Raises:
            ValueError: it is not generated yet.
        """
        if self._has_status(sample, _SETTLED):
            return False
        if not self._has_status(sample, _GENERATED):
            raise ValueError(f"request {self.ticket} has no sample {sample} to score")
        self.rewards[sample] = reward
        self.sample_status[sample] = _SETTLED
        self.unscored -= 1
        return True

    def awaits_reward(self, sample: int) -> bool:
        """Whether the sample is generated and has no verdict."""
        return self._has_status(sample, _GENERATED)

    def _has_status(self, sample: int, status: int) -> bool:
        return 0 <= sample < len(self.sample_status) and self.sample_status[sample] == status

    def state_dict(self) -> dict[str, Any]:
        """The stamps of a complete group as plain JSON; the payloads are kept by their owner."""
        return {
            "ticket": self.ticket,
            "prompt": list(self.prompt),
            "engine": self.engine,
            "version": self.dispatched_version,
            "lag": self.lag,
            "waited_for": self.waited_for,
            "spans": [[list(span) for span in spans] for spans in self.spans],
            "rewards": self.rewards,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], payloads: list[Any], now: float) -> Group:
        """A complete group again, at `now` seconds, with its samples' payloads."""
        group = cls(
            state["ticket"],
            Prompt(*state["prompt"]),
            len(payloads),
            state["engine"],
            state["version"],
            state["lag"],
            state["waited_for"],
            now,
        )
        group.spans = [tuple((v, tokens) for v, tokens in spans) for spans in state["spans"]]
        group.rewards = list(state["rewards"])
        group.payloads = payloads
        group.sample_status = bytearray([_SETTLED] * len(payloads))
        group.unfinished = group.unscored = group.on_engine = 0
        group.deadline = group.oldest_version + group.lag
        return group


def saved_groups(
    saved: Sequence[dict[str, Any]],
    payloads: Mapping[int, Sequence[Any]],
    limit: int | None,
    now: float,
) -> list[Group]:
    """The complete groups of a checkpoint, earliest deadline first.

    Args:
        saved: of `Group.state_dict`.
        payloads: ticket -> payloads of its samples; a group that has none is left out.
        limit: their lag is cut to that many updates.
        now: seconds.
    """
    groups = []
    for state in saved:
        if len(payloads.get(state["ticket"], ())) == len(state["rewards"]):
            group = Group.from_state_dict(state, list(payloads[state["ticket"]]), now)
            group.lag = group.lag if limit is None else min(group.lag, limit)
            group.deadline = group.oldest_version + group.lag
            groups.append(group)
    return sorted(groups, key=lambda group: group.deadline)


@dataclass(frozen=True, eq=False)
class Batch:
    """A rollout batch of complete groups.

    Attributes:
        index: batches before it.
        version: the trainer's version at its first update; mini-batch j is used at version + j.
        mini_batches: one per update, in the order in which they must be used: oldest first.
    """

    index: int
    version: int
    mini_batches: tuple[tuple[Group, ...], ...]

    @classmethod
    def of(cls, index: int, version: int, groups: Sequence[Group], per_update: int) -> Batch:
        """Groups in their order, `per_update` to a mini-batch, of which the last may be short."""
        parts = range(0, len(groups), per_update)
        return cls(index, version, tuple(tuple(groups[i : i + per_update]) for i in parts))

    @property
    def groups(self) -> Iterator[Group]:
        """Its groups in the order of use."""
        return (group for mini_batch in self.mini_batches for group in mini_batch)

    @property
    def max_lag(self) -> int:
        """Lag of its oldest token when it is used, in updates."""
        return max(
            version - group.oldest_version
            for version, mini_batch in enumerate(self.mini_batches, start=self.version)
            for group in mini_batch
        )
