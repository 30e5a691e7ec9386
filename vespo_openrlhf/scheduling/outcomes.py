"""What becomes of a group: complete, filtered out, dropped, sent again, or given up."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from .engines import EnginePool
from .groups import Group
from .ledger import PromptLedger
from .live import LiveGroups
from .metrics import Recorder
from .setbacks import Setbacks

logger = logging.getLogger(__name__)


class Outcomes:
    """Takes groups off their engines and settles their prompts, and counts what it does.

    Args:
        live, pool, ledger, setbacks, recorder: the parts of the scheduler that are told.
        accept: see `Scheduler`.
    """

    def __init__(
        self,
        live: LiveGroups,
        pool: EnginePool,
        ledger: PromptLedger,
        setbacks: Setbacks,
        recorder: Recorder,
        accept: Callable[[Group], bool] | None,
    ) -> None:
        self._live = live
        self._pool = pool
        self._ledger = ledger
        self._setbacks = setbacks
        self._recorder = recorder
        self._accept = accept

    def settle(
        self, group: Group, sample: int, reward: float | None, now: float, reason: str = ""
    ) -> bool:
        """The verdict, or the end of waiting for it; False if there has been one before."""
        if reward is not None and not math.isfinite(reward):
            reward = None
        if not group.settle(sample, reward):
            return False
        if reward is None:
            self._recorder.counters.lose_sample(reason)
        if not group.unscored:
            self._complete(group, now)
        return True

    def drop(self, group: Group) -> None:
        """The policy gives the group up, wherever it is."""
        if group in self._live.done:
            self._live.remove_complete(group)
        else:
            self._live.remove_in_flight(group)
            self._pool.remove(group).engine.abort(group.ticket)
        self._recorder.counters.dropped += 1
        self._ledger.drop(group.prompt)

    def lose_engine(self, name: str) -> int:
        """The engine is dead. Returns the groups that it had."""
        lost = self._pool.fail(name)
        for group in lost:
            self._live.remove_in_flight(group)
            self._lose(group)
        return len(lost)

    def _complete(self, group: Group, now: float) -> None:
        self._pool.remove(group)
        self._live.remove_in_flight(group)
        group.completed_at = now
        if 2 * group.scored < len(group.rewards):
            self._setbacks.lose(group, self._live.next_ticket, now)
            self._lose(group)
            return
        self._setbacks.score()
        accepted = self._accept is None or self._accept(group)
        if self._setbacks.refuse(not accepted):
            logger.warning("filtering has refused %d groups in a row", self._setbacks.refused)
        if accepted:
            self._live.add_complete(group)
        else:
            self._recorder.counters.filtered += 1
            self._ledger.settle(group.prompt, "filtered")

    def _lose(self, group: Group) -> None:
        if self._ledger.lose(group.prompt):
            self._recorder.counters.resent += 1
        else:
            self._recorder.counters.abandoned += 1
