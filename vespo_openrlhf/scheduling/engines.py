"""The engines as the scheduler sees them: what each of them holds, and which has room."""

from __future__ import annotations

import heapq

from .groups import Group
from .protocols import Engine


class EngineSlot:
    """One engine: `load` counts the sequences that are on it, `groups` what it would lose."""

    __slots__ = ("engine", "groups", "load", "name")

    def __init__(self, name: str, engine: Engine) -> None:
        self.name = name
        self.engine = engine
        self.load = 0
        self.groups: dict[int, Group] = {}


class EnginePool:
    """The engines that have weights and take requests.

    Args:
        capacity: sequences kept on each, at most, but for those that come back to it.
        group_size: sequences that a group adds.

    Attributes:
        ready: by name.
        in_flight: sequences that are not generated yet.
        on_engines: those of them that are not away with their environment.
        idle: engines that have none.
    """

    def __init__(self, capacity: int, group_size: int) -> None:
        self.capacity = capacity
        self._group_size = group_size
        self.ready: dict[str, EngineSlot] = {}
        self.in_flight = 0
        self.on_engines = 0
        self.idle = 0
        # (load, order of entry, slot); an entry whose load is out of date is skipped.
        self._by_load: list[tuple[int, int, EngineSlot]] = []
        self._entries = 0

    @property
    def away(self) -> int:
        """Sequences that are with their environment."""
        return self.in_flight - self.on_engines

    def add(self, name: str, engine: Engine) -> None:
        """A new engine, which takes requests from now on."""
        slot = self.ready[name] = EngineSlot(name, engine)
        self.idle += 1
        self._offer(slot)

    def has_room(self, slot: EngineSlot) -> bool:
        """Whether the engine can take a group."""
        return slot.load + self._group_size <= self.capacity

    def least_loaded(self) -> EngineSlot | None:
        """The engine with the fewest sequences that has room for a group."""
        heap = self._by_load
        while heap:
            load, _, slot = heap[0]
            if load == slot.load and self.ready.get(slot.name) is slot:
                return slot
            heapq.heappop(heap)
        return None

    def dispatch(self, slot: EngineSlot, group: Group) -> None:
        """A group is dispatched to the engine."""
        slot.groups[group.ticket] = group
        self.in_flight += self._group_size
        self._change_load(slot, self._group_size)

    def leave(self, group: Group) -> None:
        """One sequence of the group is away from its engine."""
        self._change_load(self.ready[group.engine], -1)

    def come_back(self, group: Group) -> None:
        """It is on its engine again, which may be full meanwhile."""
        self._change_load(self.ready[group.engine], 1)

    def finish_sample(self, group: Group, *, away: bool) -> None:
        """One sequence of the group has ended; `away` where it was not on its engine."""
        self.in_flight -= 1
        self._change_load(self.ready[group.engine], -(not away))

    def remove(self, group: Group) -> EngineSlot:
        """The group is whole or given up; its unfinished sequences no longer count."""
        slot = self.ready[group.engine]
        del slot.groups[group.ticket]
        self.in_flight -= group.unfinished
        self._change_load(slot, -group.on_engine)
        return slot

    def fail(self, name: str) -> list[Group]:
        """The engine is dead: the groups it held are returned, and no longer counted."""
        slot = self.ready.get(name)
        if slot is None:
            return []
        self.in_flight -= sum(group.unfinished for group in slot.groups.values())
        self._change_load(slot, -slot.load)
        self.idle -= 1
        del self.ready[name]
        return list(slot.groups.values())

    def _change_load(self, slot: EngineSlot, change: int) -> None:
        if not change:
            return
        was_idle = slot.load == 0
        slot.load += change
        self.on_engines += change
        self.idle += (slot.load == 0) - was_idle
        assert slot.load >= 0
        self._offer(slot)

    def _offer(self, slot: EngineSlot) -> None:
        if not self.has_room(slot):
            return
        self._entries += 1
        heapq.heappush(self._by_load, (slot.load, self._entries, slot))
        if len(self._by_load) > 64 + 8 * len(self.ready):
            slots = [slot for slot in self.ready.values() if self.has_room(slot)]
            self._by_load = [(slot.load, i, slot) for i, slot in enumerate(slots)]
            heapq.heapify(self._by_load)
