"""Which weights the engines have, and the update under way."""

from __future__ import annotations

from collections.abc import Sequence

from .engines import EnginePool
from .protocols import Engine


class WeightSync:
    """All about weights: who waits for some, the update under way, and what version is visible.

    A version is visible once every engine has it; requests are stamped with it, so no token of
    theirs is older.

    Args:
        pool: the engines that have weights; those of `joining` enter it with their first.
        partial_rollout: False where the engines must first finish what they have.

    Attributes:
        under_way: engines are being given weights.
        draining: nothing new is dispatched until all engines have new weights.
    """

    def __init__(self, pool: EnginePool, *, partial_rollout: bool) -> None:
        self.visible_version = 0
        self.under_way = False
        self.draining = False
        self.joining: dict[str, Engine] = {}
        self._pool = pool
        self._partial_rollout = partial_rollout
        self._missing: set[str] = set()  # engines of the update under way
        self._covers_all = False

    def join(self, name: str, engine: Engine) -> None:
        """A new engine, which waits for its first weights.

        Raises:
            ValueError: an engine of that name is here already.
        """
        if name in self._pool.ready or name in self.joining:
            raise ValueError(f"engine {name!r} is here already")
        self.joining[name] = engine

    def have_weights(self, name: str) -> None:
        """The engine has weights: one that was joining takes requests from now on."""
        if name in self.joining:
            self._pool.add(name, self.joining.pop(name))

    def begin(self, *, due: bool) -> Sequence[str]:
        """The engines that are given the trainer's weights now, if any: all where a sync is `due`,
        as soon as they may take them, and at any time those that have none."""
        assert not self.under_way, "one update at a time"
        self.draining |= due and not self._partial_rollout
        if (due or self.draining) and not (self.draining and self._pool.in_flight):
            engines = [*self._pool.ready, *self.joining]
        elif self.joining:
            engines = list(self.joining)
        else:
            return ()
        self._missing = set(engines)
        self._covers_all = len(engines) == len(self._pool.ready) + len(self.joining)
        self.under_way = bool(engines)
        return engines

    def awaits(self, name: str) -> bool:
        """Whether the engine has yet to report its new weights."""
        return name in self._missing

    def settle(self, name: str, version: int) -> None:
        """The engine has the weights of `version`, or has died."""
        self.joining.pop(name, None)
        if name not in self._missing:
            return
        self._missing.remove(name)
        self.under_way = bool(self._missing)
        if self._covers_all and not self.under_way:
            self.visible_version = version
            self.draining = False
