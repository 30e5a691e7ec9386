"""What is done to a run, and when: drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

#: What can be done, and for how many seconds (from, to) what was taken away stays away.
FAULTS: dict[str, tuple[float, float]] = {
    "engine stopped": (0, 0),
    "engine killed": (0, 0),
    "reward killed": (5, 20),
    "disk full": (30, 40),
    "driver killed": (1, 10),
    "node lost": (20, 40),
}
_PAUSE_S = (15, 30)


@dataclass(frozen=True)
class Fault:
    """One thing that is done to the run.

    Attributes:
        kind: a key of `FAULTS`.
        pause_s: seconds that the run is left alone before it.
        down_s: seconds until what was taken away is given back; 0 where nothing is.
        victim: which of the engines, or their nodes, from 0.
        core: of an engine that is killed: its core, not the actor around it.
    """

    kind: str
    pause_s: float
    down_s: float
    victim: int
    core: bool


def schedule(seed: int, kinds: Sequence[str], engines: int) -> Iterator[Fault]:
    """Faults without end: rounds in which each kind comes once, in an order of the round's own.

    The same arguments, the same faults.
    """
    draw = random.Random(f"chaos-{seed}")
    while True:
        for kind in draw.sample(list(kinds), len(kinds)):
            yield Fault(
                kind=kind,
                pause_s=round(draw.uniform(*_PAUSE_S), 1),
                down_s=round(draw.uniform(*FAULTS[kind]), 1),
                victim=draw.randrange(engines),
                core=draw.random() < 0.5,
            )
