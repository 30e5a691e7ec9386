"""The metrics of one rollout batch, which may be trained in several steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Statuses:
    """Adds up what the steps of a batch report; `values` is one flat dictionary."""

    def __init__(self) -> None:
        self._once: dict[str, Any] = {}
        self._sums: dict[str, float] = {}
        self._weighted: dict[str, tuple[float, float]] = {}
        self._largest: dict[str, float] = {}

    def once(self, values: Mapping[str, Any]) -> None:
        """Of the whole batch."""
        self._once.update(values)

    def add(self, values: Mapping[str, float]) -> None:
        """To be summed: seconds."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def mean(self, values: Mapping[str, float], updates: int) -> None:
        """Of a step of so many updates, by which the mean is weighted; a `_max` is a maximum and
        a `num_` a sum. NaN, the mean of no samples, does not count."""
        for name, value in values.items():
            last = name.rpartition("/")[2]
            if math.isnan(value):
                continue
            if last.startswith("num_"):
                self.add({name: value})
            elif last.endswith("_max"):
                self._largest[name] = max(value, self._largest.get(name, value))
            else:
                total, weight = self._weighted.get(name, (0.0, 0.0))
                self._weighted[name] = (total + value * updates, weight + updates)

    def values(self) -> dict[str, Any]:
        """All of them."""
        means = {name: total / weight for name, (total, weight) in self._weighted.items()}
        return self._once | means | self._largest | self._sums
