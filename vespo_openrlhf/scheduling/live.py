"""The groups that are in flight or complete, by their deadline."""

from __future__ import annotations

from collections.abc import Iterator

from .groups import Group


class Shelf:
    """Groups by deadline, and how many of each deadline are waited for."""

    def __init__(self) -> None:
        self._groups: dict[int, dict[Group, None]] = {}
        self._waited_for: dict[int, int] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, group: Group) -> bool:
        return group in self._groups.get(group.deadline, ())

    def __iter__(self) -> Iterator[Group]:
        """Earliest deadline first."""
        return (group for deadline in sorted(self._groups) for group in self._groups[deadline])

    def before(self, version: int) -> list[Group]:
        """Those with a deadline before `version`, in no order of their deadlines."""
        return [group for d, groups in self._groups.items() if d < version for group in groups]

    def waited_for(self) -> Iterator[tuple[int, int]]:
        """(deadline, groups that are waited for), earliest deadline first."""
        return ((deadline, self._waited_for[deadline]) for deadline in sorted(self._groups))

    def add(self, group: Group) -> None:
        """A new group."""
        deadline = group.deadline
        self._groups.setdefault(deadline, {})[group] = None
        self._waited_for[deadline] = self._waited_for.get(deadline, 0) + group.waited_for
        self._size += 1

    def remove(self, group: Group) -> None:
        """A group that is here leaves."""
        deadline = group.deadline
        del self._groups[deadline][group]
        self._waited_for[deadline] -= group.waited_for
        if not self._groups[deadline]:
            del self._groups[deadline], self._waited_for[deadline]
        self._size -= 1


class LiveGroups:
    """The groups in flight and the complete ones.

    Attributes:
        tickets, flying: those in flight, by their tickets and by deadline.
        done: the complete ones, by deadline.
        next_ticket: of the next group.
        changed: whether a group has become complete, or has left, since it was last set to False.
    """

    def __init__(self) -> None:
        self.tickets: dict[int, Group] = {}
        self.flying = Shelf()
        self.done = Shelf()
        self.next_ticket = 0
        self.changed = True

    @property
    def in_flight(self) -> int:
        """Groups in flight."""
        return len(self.tickets)

    @property
    def complete(self) -> int:
        """Complete groups."""
        return len(self.done)

    @property
    def total(self) -> int:
        """Groups in flight and complete ones."""
        return len(self.tickets) + len(self.done)

    def complete_groups(self) -> list[Group]:
        """The complete groups, earliest deadline first."""
        return list(self.done)

    def add_in_flight(self, group: Group) -> None:
        """A group has been dispatched."""
        self.next_ticket = group.ticket + 1
        self.tickets[group.ticket] = group
        self.flying.add(group)

    def postpone(self, group: Group, deadline: int) -> None:
        """A group in flight has begun later than it was dispatched. A later deadline takes room
        from no other: as many groups as before have one up to any version, or fewer."""
        self.flying.remove(group)
        group.deadline = deadline
        self.flying.add(group)
        self.changed = True

    def remove_in_flight(self, group: Group) -> None:
        """A group in flight is given up, or about to be complete."""
        del self.tickets[group.ticket]
        self.flying.remove(group)
        self.changed = True

    def add_complete(self, group: Group) -> None:
        """A group is whole. Its tokens may turn out younger than its dispatch."""
        group.deadline = group.oldest_version + group.lag
        self.done.add(group)
        self.changed = True

    def remove_complete(self, group: Group) -> None:
        """A complete group is trained or dropped."""
        self.done.remove(group)
        self.changed = True
