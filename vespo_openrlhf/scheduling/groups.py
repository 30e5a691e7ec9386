"""Version-stamped groups, and the choice of the ones that train next.

A group is all n samples of one prompt; it is dispatched, completed, trained or dropped as a
whole. `LiveGroups` holds those that are in flight or complete, by their deadline, and chooses the
batch that can go to the trainer such that everything that is waited for can still be used in time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .lag import LagBudget, Spans, check_spans
from .prompts import Prompt

_GENERATING, _GENERATED, _SETTLED = range(3)


class Group:
    """One dispatch of a prompt and its n samples.

    Attributes:
        ticket: unique per dispatch; the engine's events name it. A prompt that is sent again gets
            a new one, so that events of the old dispatch can be told apart.
        engine: where all its samples are generated, so that they share the prompt's prefix.
        dispatched_version: the version every engine had at dispatch; no token is older.
        lag: the working lag at dispatch, in updates.
        waited_for: the trainer may not go past this group's deadline without it.
        spans, payloads, rewards: per sample. A payload is whatever the engine handed over with
            the sample, never looked into here; a reward of None is one that never came.
        unfinished, unscored: how many samples are not generated yet, or have no verdict yet.
        dispatched_at, generated_at (per sample), completed_at: seconds on the scheduler's clock.
    """

    __slots__ = (
        "completed_at",
        "deadline",
        "dispatched_at",
        "dispatched_version",
        "engine",
        "generated_at",
        "lag",
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

    @property
    def oldest_version(self) -> int:
        """The version of the oldest token of a complete group."""
        return min(spans[0][0] for spans in self.spans)

    @property
    def scored(self) -> int:
        """Samples that have a reward."""
        return sum(reward is not None for reward in self.rewards)

    def generate(
        self, sample: int, spans: Sequence[tuple[int, int]], newest: int, payload: Any, now: float
    ) -> None:
        """A sample was generated, while the trainer's version was `newest`.

        Raises:
            ValueError: it was generated before, or its spans cannot be.
        """
        if not self._has_status(sample, _GENERATING):
            raise ValueError(f"request {self.ticket} has no sample {sample} to generate")
        self.spans[sample] = check_spans(spans, self.dispatched_version, newest)
        self.payloads[sample] = payload
        self.generated_at[sample] = now
        self.sample_status[sample] = _GENERATED
        self.unfinished -= 1

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
        group.unfinished = group.unscored = 0
        group.deadline = group.oldest_version + group.lag
        return group


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


class _Shelf:
    """Groups by deadline, and how many of each deadline are waited for."""

    def __init__(self) -> None:
        self.groups: dict[int, dict[Group, None]] = {}
        self.waited_for: dict[int, int] = {}
        self.size = 0

    def add(self, group: Group) -> None:
        deadline = group.deadline
        self.groups.setdefault(deadline, {})[group] = None
        self.waited_for[deadline] = self.waited_for.get(deadline, 0) + group.waited_for
        self.size += 1

    def remove(self, group: Group) -> None:
        deadline = group.deadline
        del self.groups[deadline][group]
        self.waited_for[deadline] -= group.waited_for
        if not self.groups[deadline]:
            del self.groups[deadline], self.waited_for[deadline]
        self.size -= 1

    def before(self, position: int) -> list[Group]:
        return [group for d, groups in self.groups.items() if d < position for group in groups]


class LiveGroups:
    """Groups in flight and complete groups, by deadline.

    Args:
        budget: what has to be kept.
        enforced: False where a group that is too old is trained all the same.
    """

    def __init__(self, budget: LagBudget, *, enforced: bool) -> None:
        self._budget = budget
        self._enforced = enforced
        self._in_flight = _Shelf()
        self._complete = _Shelf()

    @property
    def in_flight(self) -> int:
        """Groups in flight."""
        return self._in_flight.size

    @property
    def complete(self) -> int:
        """Complete groups."""
        return self._complete.size

    @property
    def total(self) -> int:
        """Groups in flight and complete ones."""
        return self.in_flight + self.complete

    def add_in_flight(self, group: Group) -> None:
        """A group has been dispatched."""
        self._in_flight.add(group)

    def remove_in_flight(self, group: Group) -> None:
        """A group in flight is given up, or about to be complete."""
        self._in_flight.remove(group)

    def add_complete(self, group: Group) -> None:
        """A group is whole. Its tokens may turn out younger than its dispatch."""
        group.deadline = group.oldest_version + group.lag
        self._complete.add(group)

    def complete_groups(self) -> list[Group]:
        """The complete groups, earliest deadline first."""
        shelf = self._complete.groups
        return [group for deadline in sorted(shelf) for group in shelf[deadline]]

    def restore(
        self,
        saved: Sequence[dict[str, Any]],
        payloads: Mapping[int, Sequence[Any]],
        position: int,
        now: float,
    ) -> None:
        """Complete groups of a checkpoint join, as many as can be used from `position` in time.

        Args:
            saved: of `Group.state_dict`.
            payloads: ticket -> payloads of its samples; a group that has none is left out.
            position: the version at which the next batch starts.
            now: seconds.
        """
        groups = []
        for state in saved:
            if len(payloads.get(state["ticket"], ())) == len(state["rewards"]):
                state = {**state, "lag": min(state["lag"], self._budget.limit)}
                found = list(payloads[state["ticket"]])
                groups.append(Group.from_state_dict(state, found, now))
        for group in sorted(groups, key=lambda group: group.deadline):
            if self.complete < self._budget.room(group.deadline, position):
                self.add_complete(group)

    def take(self, position: int, size: int) -> tuple[list[Group], list[Group]]:
        """The groups of the next batch, oldest first, and those that are now too old to use.

        Args:
            position: the version at which the batch starts.
            size: groups in the batch; at least that many are complete.

        Returns:
            (batch, overdue). The overdue groups are taken out. The batch is empty if too few are
            left, or if a group in flight has to be waited for; otherwise it is taken out, and
            group i of it meets its deadline in mini-batch i // groups_per_update.
        """
        updates = -(-size // self._budget.groups_per_update)
        if not self._in_flight_fit(position + updates):
            return [], []
        chosen, overdue = self._choose(position, size)
        if len(chosen) < size:
            chosen = []
        for group in itertools.chain(chosen, overdue):
            self._complete.remove(group)
        return chosen, overdue

    def expired(self, position: int) -> tuple[list[Group], list[Group]]:
        """Groups with a deadline before `position`: (in flight, complete). They are taken out.

        None where groups are trained whatever their age.
        """
        if not self._enforced:
            return [], []
        in_flight, complete = self._in_flight.before(position), self._complete.before(position)
        assert not any(group.waited_for for group in in_flight + complete), "not waited for"
        for group in in_flight:
            self._in_flight.remove(group)
        for group in complete:
            self._complete.remove(group)
        return in_flight, complete

    def _choose(self, position: int, size: int) -> tuple[list[Group], list[Group]]:
        """Those that are waited for, and the others in the slots that are left; of both the
        earliest deadlines, and the chosen in the order of their deadlines.

        Of those that are waited for, the rest then still fits: all that were taken have earlier
        deadlines, so that every count up to a later deadline has gone down by a whole batch.
        """
        candidates = self.complete_groups()
        if not self._enforced:
            return candidates[:size], []
        must = min(size, sum(group.waited_for for group in candidates))
        free = size - must
        chosen: list[Group] = []
        overdue: list[Group] = []
        for group in candidates:
            in_time = len(chosen) < self._budget.room(group.deadline, position)
            if group.waited_for and must:
                if not in_time:  # the last that is not waited for gives way
                    place = max(i for i, other in enumerate(chosen) if not other.waited_for)
                    overdue.append(chosen.pop(place))
                    free += 1
                chosen.append(group)
                must -= 1
            elif not group.waited_for and not in_time:
                overdue.append(group)
            elif not group.waited_for and free:
                chosen.append(group)
                free -= 1
            if not must and not free:
                break
        return chosen, overdue

    def _in_flight_fit(self, position: int) -> bool:
        """Whether the groups in flight that are waited for can all be used from `position`."""
        if not self._enforced:
            return True
        waiting = 0
        for deadline in sorted(self._in_flight.groups):
            waiting += self._in_flight.waited_for[deadline]
            if waiting > self._budget.room(deadline, position):
                return False
        return True
