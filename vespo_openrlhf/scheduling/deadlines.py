"""How long the reward of a generated sample is waited for."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from .groups import Group


class RewardDeadlines:
    """Generated samples in the order in which their rewards are due: all get the same time.

    Args:
        seconds: from a sample's last token to the moment its reward is given up; None: never.
        groups: the groups in flight by ticket; those of others are no longer waited for.
    """

    def __init__(self, seconds: float | None, groups: Mapping[int, Group]) -> None:
        self._seconds = seconds
        self._groups = groups
        self._waiting: deque[tuple[float, int, int]] = deque()

    def add(self, ticket: int, sample: int, now: float) -> None:
        """The sample was generated just now."""
        if self._seconds is not None:
            self._waiting.append((now + self._seconds, ticket, sample))

    def next(self) -> float | None:
        """When a reward is next due, on the scheduler's clock; None while none is awaited."""
        while self._waiting:
            due, ticket, sample = self._waiting[0]
            group = self._groups.get(ticket)
            if group is not None and group.awaits_reward(sample):
                return due
            self._waiting.popleft()
        return None

    def pop_overdue(self, now: float) -> tuple[Group, int] | None:
        """The group and sample whose reward is the longest overdue, if any is."""
        due = self.next()
        if due is None or due > now:
            return None
        _, ticket, sample = self._waiting.popleft()
        return self._groups[ticket], sample
