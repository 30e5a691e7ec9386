"""A hard bound on the lag of every trained token: the policy that a run has by default.

A group gets a deadline when it is sent: the last version at which it may be used. Because every
update uses up one mini-batch of groups, "can all of these still be used in time?" is a count: as
many groups as have a deadline up to t must fit into the mini-batches from here to t (see
`LagBudget`). A prompt is sent only while that stays true, and the batch is chosen so that it stays
true for the rest. Together they make the bound hard, however long a response takes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from ..adaptive import controller_for
from ..lag import LagBudget
from ..options import SchedulerConfig
from ..policy import Choice, GroupView, Policy, Send, View

#: A prompt that was dropped for its age this often is waited for, so that none starves.
MAX_DROPS = 2


class Bounded(Policy):
    """Oldest first, within lag.max; see the module.

    A group that would become too old is waited for, dropped or trained all the same: lag.on_stale.
    Groups that are waited for (`waited_for`) hold the trainer back: it may not go past their
    deadline without them. With lag.target_ess, groups are sent with a working lag below lag.max.
    """

    limit: int
    working_lag: int
    uses = frozenset({"max", "on_stale", "sync_every", "target_ess"})

    def __init__(self, config: SchedulerConfig) -> None:
        super().__init__(config)
        n = config.updates_per_batch
        self.budget = LagBudget.from_options(config.lag, n, config.groups_per_update)
        self.limit = self.working_lag = self.budget.limit
        self._on_stale = config.lag.on_stale
        self._controller = controller_for(config.lag, self.budget)
        self._follow()

    def send(self, view: View) -> Send | None:
        """To the least loaded engine, while all that is under way can be used in time."""
        lag = self.working_lag
        if view.total >= self.budget.room(view.visible_version + lag, view.position):
            return None
        waited_for = self._on_stale == "wait" or (
            self._on_stale == "drop" and view.drops(view.prompt()) >= MAX_DROPS
        )
        return Send(view.least_loaded, lag=lag, waited_for=waited_for)

    def choose(self, view: View) -> Choice:
        """The oldest, so that all that is waited for can still be used in time.

        Group i of the batch meets its deadline in mini-batch i // groups_per_update. What is
        certain to become too old is dropped.
        """
        size = view.batch_size
        if self._on_stale == "keep":
            return Choice(list(itertools.islice(view.complete, size)))
        after = view.position + math.ceil(size / self.budget.groups_per_update)
        if not self._in_flight_fit(view, after):
            return Choice()
        chosen, overdue = self._oldest(view, size)
        if len(chosen) < size:
            return Choice(drop=overdue)
        assert self._in_time(chosen, view.position), "a group past its deadline"
        gone = {group.ticket for group in itertools.chain(chosen, overdue)}
        expired = [
            group
            for group in itertools.chain(view.in_flight.before(after), view.complete.before(after))
            if group.ticket not in gone
        ]
        assert not any(group.waited_for for group in expired), "not waited for"
        return Choice(chosen, [*overdue, *expired])

    def trained(self, view: View, ess: float | None) -> None:
        """The working lag follows the effective sample size."""
        if self._controller is None:
            return
        if ess is None:
            raise ValueError("lag.target_ess is set, and the trainer reports no ess")
        if not math.isnan(ess):
            self._controller.observe(view.version, ess)
            self._follow()

    def readmit(self, view: View, group: GroupView) -> bool:
        """As many as can be used in time."""
        return len(view.complete) < self.budget.room(group.deadline, view.position)

    def state_dict(self) -> Any:
        """Of the working lag."""
        return self._controller.state_dict() if self._controller else None

    def load_state_dict(self, state: Any) -> None:
        """Go on with that working lag, where it is still steered."""
        if self._controller:
            self._controller.load_state_dict(state)
            self._follow()

    def _follow(self) -> None:
        if self._controller:
            self.working_lag = self._controller.lag

    def _oldest(self, view: View, size: int) -> tuple[list[GroupView], list[GroupView]]:
        """(chosen, overdue): those that are waited for, and the others in the slots that are left;
        of both the earliest deadlines, and the chosen in the order of their deadlines.

        Of those that are waited for, the rest then still fits: all that were taken have earlier
        deadlines, so that every count up to a later deadline has gone down by a whole batch.
        """
        must = min(size, sum(waiting for _, waiting in view.complete.waited_for()))
        free = size - must
        chosen: list[GroupView] = []
        overdue: list[GroupView] = []
        for group in view.complete:
            in_time = len(chosen) < self.budget.room(group.deadline, view.position)
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

    def _in_flight_fit(self, view: View, position: int) -> bool:
        """Whether the groups in flight that are waited for can all be used from `position`."""
        total = 0
        for deadline, waiting in view.in_flight.waited_for():
            total += waiting
            if total > self.budget.room(deadline, position):
                return False
        return True

    def _in_time(self, groups: Sequence[GroupView], position: int) -> bool:
        per_update = self.budget.groups_per_update
        return all(
            position + i // per_update <= min(g.deadline, g.oldest_version + self.budget.limit)
            for i, g in enumerate(groups)
        )
