"""A policy's answers, held to what can be carried out."""

from __future__ import annotations

from .engines import EnginePool, EngineSlot
from .groups import Group
from .ledger import PromptLedger
from .live import LiveGroups
from .policy import Choice, GroupView, PolicyError, Send

#: A prompt that was dropped this often would be dropped for ever.
ENDLESS_DROPS = 20


class Answers:
    """The checks on one policy's answers; `PolicyError` says which policy did what.

    Args:
        policy: its name, for messages.
        pool, live, ledger: the state of the run.
    """

    def __init__(
        self, policy: str, pool: EnginePool, live: LiveGroups, ledger: PromptLedger
    ) -> None:
        self._policy = policy
        self._pool = pool
        self._live = live
        self._ledger = ledger

    def error(self, text: str) -> PolicyError:
        """An error of the policy's."""
        return PolicyError(f"lag.policy {self._policy} {text}")

    def slot(self, send: Send) -> EngineSlot:
        """The engine to send to. Raises PolicyError where it cannot take a group."""
        slot = self._pool.ready.get(send.engine)
        if slot is None:
            raise self.error(
                f"sends a prompt to engine {send.engine!r}, which is not there or has no weights"
            )
        if not self._pool.has_room(slot):
            raise self.error(
                f"sends a prompt to engine {send.engine!r}, which is full: {slot.load} of "
                f"{self._pool.capacity} sequences"
            )
        return slot

    def groups(self, choice: Choice, size: int) -> tuple[list[Group], list[Group]]:
        """(train, drop) of a choice. Raises PolicyError for groups that cannot be."""
        train = [self._known(group, complete=True) for group in choice.train]
        drop = [self._known(group, complete=False) for group in choice.drop]
        if len(train) not in (0, size):
            raise self.error(f"chooses {len(train)} groups for a batch of {size}")
        if len({group.ticket for group in (*train, *drop)}) < len(train) + len(drop):
            raise self.error("chooses a group twice")
        for group in drop:
            if self._ledger.drops(group.prompt) >= ENDLESS_DROPS:
                raise self.error(
                    f"drops prompt {group.prompt.name} again, after {ENDLESS_DROPS} times"
                )
        return train, drop

    def updates(self, updates: int) -> int:
        """The updates to the next sync. Raises PolicyError below 1."""
        if updates < 1:
            raise self.error(f"asks for {updates} updates before the next sync")
        return updates

    def _known(self, group: GroupView, *, complete: bool) -> Group:
        live = self._live
        if isinstance(group, Group) and (
            group in live.done or (not complete and group in live.flying)
        ):
            return group
        kind = "trains a group that is not complete" if complete else "drops a group that is gone"
        raise self.error(f"{kind}: {getattr(group, 'prompt', group)}")
