"""Where the trainer is: its version, and the batch and the step under way."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .groups import Batch, Group
from .protocols import TrainStep


class Training:
    """The trainer's side of the run.

    Args:
        groups_per_update: groups in a mini-batch.

    Attributes:
        version: optimizer updates done.
        position: the version at which the next batch will start.
        batches: trained to their end.
        batch: of which some steps are trained or under way.
        busy: whether a step of it is under way.
        started: when it was begun, in seconds on the scheduler's clock.
    """

    def __init__(self, groups_per_update: int) -> None:
        self.version = 0
        self.position = 0
        self.batches = 0
        self.batch: Batch | None = None
        self.busy = False
        self.started = 0.0
        self._groups_per_update = groups_per_update
        self._done = 0  # mini-batches that are trained, or in the step under way
        self._ess: list[float] = []

    def restore(self, version: int, batches: int) -> None:
        """Go on between two batches."""
        self.version = self.position = version
        self.batches = batches

    def begin(self, groups: Sequence[Group], now: float) -> None:
        """A batch of these groups is to be trained."""
        assert self.batch is None
        self.batch = Batch.of(self.batches, self.position, groups, self._groups_per_update)
        self.position += len(self.batch.mini_batches)
        self.started, self._done, self._ess = now, 0, []

    def next_step(self, updates: int) -> TrainStep:
        """The next `updates` of the batch, or all that are left of it; under way from now on."""
        assert self.batch is not None
        first, total = self._done, len(self.batch.mini_batches)
        self._done = min(first + updates, total)
        self.busy = True
        return TrainStep(self.batch, first, self._done)

    def finish_step(self, ess: float | None) -> Batch | None:
        """The step is trained. Returns the batch, if that was the last of it."""
        assert self.batch is not None
        assert self.busy, "trained without having been asked"
        self.busy = False
        batch = self.batch
        self.version = batch.version + self._done
        if ess is not None:
            self._ess.append(ess)
        if self._done < len(batch.mini_batches):
            return None
        self.batch = None
        self.batches += 1
        return batch

    def ess(self) -> float | None:
        """Of the last batch, as a share: NaN where it had none, None where none was measured."""
        known = [ess for ess in self._ess if not math.isnan(ess)]
        if not self._ess:
            return None
        return math.fsum(known) / len(known) if known else math.nan
