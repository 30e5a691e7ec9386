"""Tune every loss with the same budget, and widen the grid while a winner is on its edge.

A loss has one option that is tuned, in steps, and the learning rate, a factor of three a step.
Three steps of each are tried at first; while the best is at an edge, a row more is tried beyond
it. Standard library only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import fmean

from vespo_openrlhf.study.cells import BASE_RATE, Cell, LossSetting

#: Between two steps of the learning rate.
RATE_FACTOR = 3.0
_RATES = range(-6, 7)
_AT_FIRST = 3

#: Final accuracy of a cell; None where it has not been run.
Final = Callable[[Cell], float | None]
#: Steps of the option, and of the learning rate.
Point = tuple[int, int]


@dataclass(frozen=True)
class Family:
    """A loss with the settings that are tried.

    Attributes:
        label: of the loss.
        settings: by step of the option, without a gap; 0 is as published. What has no setting
            cannot be tried: see `Choice.at_edge`.
        ordered: whether a step more is more of something; not so where they are kinds.
    """

    label: str
    settings: Mapping[int, LossSetting]
    ordered: bool = True


@dataclass(frozen=True)
class Choice:
    """What was found best.

    Attributes:
        setting, learning_rate: which.
        score: mean final accuracy over the tuning seeds.
        tried: settings and rates, all of them run.
        at_edge: whether it lies at an end of what can be tried, and a better one may lie beyond.
    """

    setting: LossSetting
    learning_rate: float
    score: float
    tried: int
    at_edge: bool


@dataclass(frozen=True)
class Progress:
    """How far a tuning has come.

    Attributes:
        cells: all that it has asked for so far.
        chosen: of the families that are done; all of them once every cell has been run.
    """

    cells: list[Cell]
    chosen: dict[str, Choice]


@dataclass(frozen=True)
class Tuning:
    """Choose each family's setting on seeds of its own, then report it on others.

    Attributes:
        families: what is tuned.
        untuned: reported beside them, at the first learning rate.
        updates_per_batch: N of every run.
        seeds: those of the choice.
        report_seeds: those of the report; none of `seeds`.
        learning_rate: the middle one of the first three.

    Raises:
        ValueError: a seed is to choose and to report.
    """

    families: tuple[Family, ...]
    updates_per_batch: int
    seeds: tuple[int, ...]
    report_seeds: tuple[int, ...]
    learning_rate: float = BASE_RATE
    untuned: tuple[LossSetting, ...] = ()

    def __post_init__(self) -> None:
        if shared := set(self.seeds) & set(self.report_seeds):
            raise ValueError(f"seed {min(shared)} is both to choose by and to report on")

    def progress(self, final: Final) -> Progress:
        """What has to be run, and what is chosen where that has been.

        Args:
            final: of each cell that has been run.
        """
        cells: list[Cell] = []
        chosen: dict[str, Choice] = {}
        for family in self.families:
            asked, choice = self._tune(family, final)
            cells += asked
            if choice is not None:
                chosen[family.label] = choice
        return Progress(sorted(cells, key=lambda cell: cell.seed), chosen)

    def reported(self, chosen: Mapping[str, Choice]) -> dict[str, tuple[LossSetting, float]]:
        """Label of a family or of an untuned loss -> its setting and learning rate."""
        tuned = {name: (choice.setting, choice.learning_rate) for name, choice in chosen.items()}
        return tuned | {loss.label: (loss, self.learning_rate) for loss in self.untuned}

    def report(self, chosen: Mapping[str, Choice]) -> list[Cell]:
        """What the choice is reported on, seed by seed; nothing before every family has one."""
        if len(chosen) < len(self.families):
            return []
        settings = self.reported(chosen).values()
        pairs = itertools.product(self.report_seeds, settings)
        return [self._cell(setting, rate, seed) for seed, (setting, rate) in pairs]

    def settings(self) -> list[LossSetting]:
        """Every loss that it may train with."""
        tuned = (family.settings.values() for family in self.families)
        return [*itertools.chain.from_iterable(tuned), *self.untuned]

    def _tune(self, family: Family, final: Final) -> tuple[list[Cell], Choice | None]:
        nearest = sorted(sorted(family.settings), key=abs)[:_AT_FIRST]
        steps, rates = set(nearest), {-1, 0, 1}
        while True:
            cells = {
                (step, rate): [
                    self._cell(family.settings[step], self._rate(rate), seed) for seed in self.seeds
                ]
                for step, rate in itertools.product(sorted(steps), sorted(rates))
            }
            asked = list(itertools.chain.from_iterable(cells.values()))
            scores: dict[Point, float] = {}
            for point, of_point in cells.items():
                found = [final(cell) for cell in of_point]
                known = [value for value in found if value is not None]
                if len(known) < len(found):
                    return asked, None
                scores[point] = fmean(known)
            # Of equals, the one that is the fewest steps of either kind from the middle.
            best = max(scores, key=lambda point: (scores[point], -sum(map(abs, point))))
            more_steps = set(_beyond(best[0], steps, family.settings))
            more_rates = set(_beyond(best[1], rates, _RATES))
            if not more_steps | more_rates:
                rate = self._rate(best[1])
                ends = (min(family.settings), max(family.settings)) if family.ordered else ()
                at_edge = best[0] in ends or best[1] in (_RATES[0], _RATES[-1])
                setting = family.settings[best[0]]
                return asked, Choice(setting, rate, scores[best], len(scores), at_edge)
            steps |= more_steps
            rates |= more_rates

    def _rate(self, step: int) -> float:
        return float(f"{self.learning_rate * RATE_FACTOR**step:.3g}")

    def _cell(self, setting: LossSetting, learning_rate: float, seed: int) -> Cell:
        return Cell(setting, self.updates_per_batch, seed, learning_rate=learning_rate)


def _beyond(best: int, tried: set[int], available: Mapping[int, object] | range) -> Iterator[int]:
    """The steps next to the best that can be tried and have not been: it is at an edge."""
    return (step for step in (best - 1, best + 1) if step in available and step not in tried)
