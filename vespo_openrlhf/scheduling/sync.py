"""Which weights the engines have, and the update under way."""

from __future__ import annotations

from .engines import EnginePool


class WeightSync:
    """Decides when the engines are given weights, and what version is visible.

    A version is visible once every engine has it; requests are stamped with it, so no token of
    theirs is older.

    Args:
        every: k, updates from one sync to the next.
        partial_rollout: False where the engines must first finish what they have.
    """

    def __init__(self, every: int, *, partial_rollout: bool) -> None:
        self.visible_version = 0
        self.draining = False  # nothing new is dispatched until the engines have new weights
        self._every = every
        self._partial_rollout = partial_rollout
        self._missing: set[str] = set()
        self._covers_all = False

    def engines_to_update(self, version: int, pool: EnginePool, *, last: bool) -> list[str]:
        """The engines that should be given the trainer's weights of `version` now, if any.

        Args:
            last: nothing is left to train. The engines are left with the weights the run ends
                with, on which it may be evaluated, however few updates those are away.
        """
        if version - self.visible_version >= (1 if last else self._every):
            self.draining = not self._partial_rollout
            if not (self.draining and pool.in_flight):
                return pool.names
        return list(pool.joining)

    def updates_to_next(self, version: int) -> int:
        """Updates to train before the engines are next looked at."""
        return max(0, self.visible_version + self._every - version) or self._every

    def begin(self, engines: list[str], pool: EnginePool) -> None:
        """The update of these engines is under way."""
        self._missing = set(engines)
        self._covers_all = self._missing == set(pool.names)

    def awaits(self, engine: str) -> bool:
        """Whether the engine has yet to report its new weights."""
        return engine in self._missing

    def settle(self, engine: str, version: int) -> bool:
        """The engine has the weights of `version`, or has died.

        Returns:
            Whether that ends the update under way.
        """
        if engine not in self._missing:
            return False
        self._missing.remove(engine)
        if self._missing:
            return False
        if self._covers_all:
            self.visible_version = version
            self.draining = False
        return True
