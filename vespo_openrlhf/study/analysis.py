"""A study's finished runs, put together: by condition and loss, paired by seed, tuned or not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median
from typing import Any

from vespo_openrlhf.study.cells import Cell
from vespo_openrlhf.study.full_stack import full_stack_store
from vespo_openrlhf.study.presets import CONTROL, Study
from vespo_openrlhf.study.statistics import (
    Estimate,
    RunSummary,
    compare,
    estimate,
    paired,
    summarise_run,
)
from vespo_openrlhf.study.store import Store

Row = dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A run and what it came to."""

    cell: Cell
    result: Mapping[str, Any]
    summary: RunSummary


@dataclass(frozen=True)
class Group:
    """The runs of one loss under one condition, by seed."""

    label: str
    cell: Cell
    runs: Mapping[int, Finished]

    @property
    def finals(self) -> dict[int, float]:
        """Seed -> final accuracy."""
        return {seed: run.summary.final for seed, run in self.runs.items()}

    @property
    def final(self) -> Estimate:
        """Final accuracy over seeds."""
        return estimate(list(self.finals.values()))

    def curves(self, name: str) -> list[list[float]]:
        """What was recorded under `name` at each update; none where the loss has no such thing."""
        runs = [run.result["updates"].get(name) for run in self.runs.values()]
        return [curve for curve in runs if curve]


class Analysis:
    """The study as far as it has been run.

    Args:
        study: which runs.
        store: where they are; those that are not there are left out.
    """

    def __init__(self, study: Study, store: Store) -> None:
        self.study, self._store = study, store
        cells = study.cells()
        self.missing = len(store.missing(study.all_cells(store.final)))
        self._controls: dict[tuple[float, int], float] = {}
        for cell in self._present(cells):
            if cell.updates_per_batch == 1 and cell.loss.name == CONTROL.name and not cell.lag:
                key = cell.learning_rate, cell.seed
                self._controls[key] = self._finish(cell).summary.final
        self.groups = self._grouped(cells)

    def _present(self, cells: Sequence[Cell]) -> list[Cell]:
        missing = set(map(id, self._store.missing(cells)))
        return [cell for cell in cells if id(cell) not in missing]

    def _finish(self, cell: Cell) -> Finished:
        result = self._store.load(cell)
        control = self._controls.get((cell.learning_rate, cell.seed))
        last = self.study.recipe.last_evaluations
        return Finished(cell, result, summarise_run(result["evaluations"], last, control))

    def _grouped(self, cells: Sequence[Cell]) -> list[Group]:
        groups: dict[tuple[Any, ...], dict[int, Finished]] = {}
        for cell in self._present(cells):
            key = (*cell.condition(), cell.loss.label)
            groups.setdefault(key, {})[cell.seed] = self._finish(cell)
        grouped = []
        for runs in groups.values():
            cell = next(iter(runs.values())).cell
            grouped.append(Group(cell.loss.label, cell, dict(sorted(runs.items()))))
        return grouped

    @cached_property
    def controls(self) -> list[Group]:
        """The on-policy runs, one group a learning rate."""
        return [group for group in self.groups if group.label == CONTROL.label]

    @cached_property
    def compared(self) -> list[Group]:
        """All but the on-policy control, from the least stale to the stalest."""
        groups = [group for group in self.groups if group.label != CONTROL.label]
        return sorted(groups, key=lambda group: group.cell.condition())

    @cached_property
    def labels(self) -> list[str]:
        """The losses that are compared, in the order of the preset."""
        return list(dict.fromkeys(group.label for group in self.groups if group in self.compared))

    def conditions(self) -> dict[tuple[Any, ...], list[Group]]:
        """The groups of each condition, in the order of the losses."""
        by_condition: dict[tuple[Any, ...], list[Group]] = {}
        for group in self.compared:
            by_condition.setdefault(group.cell.condition(), []).append(group)
        for groups in by_condition.values():
            groups.sort(key=lambda group: self.labels.index(group.label))
        return by_condition

    def control(self, learning_rate: float) -> Group | None:
        """The on-policy runs at this learning rate."""
        found = [group for group in self.controls if group.cell.learning_rate == learning_rate]
        return found[0] if found else None

    def table(self) -> list[Row]:
        """One row a condition and loss; see the columns of `tables.COLUMNS`."""
        return [
            self._row(group)
            for group in [*self.controls, *(g for gs in self.conditions().values() for g in gs)]
        ]

    def _row(self, group: Group) -> Row:
        summaries = [run.summary for run in group.runs.values()]
        reached = [summary.reached for summary in summaries if summary.reached is not None]
        late = _last_quarter(group)
        return _condition(group.cell) | {
            "loss": group.label,
            "seeds": len(summaries),
            "final": group.final.mean,
            "final_half_width": group.final.half_width,
            "best": estimate([summary.best for summary in summaries]).mean,
            "drop": estimate([summary.drop for summary in summaries]).mean,
            "collapsed": sum(summary.collapsed for summary in summaries) / len(summaries),
            "reached_level": len(reached),
            "updates_to_level": median(reached) if reached else None,
            "log_w_abs_mean": late("log_w_abs_mean"),
            "ess": late("ess"),
            "skipped_updates": sum(run.result["skipped"] for run in group.runs.values()),
            "max_lag": max(run.result["lag"]["max"] for run in group.runs.values()),
        }

    def claims(self, ours: str = "VESPO") -> list[Row]:
        """Under each condition, `ours` above each of the others in final accuracy.

        Corrected for the number of others under the condition.
        """
        rows = []
        for groups in self.conditions().values():
            own = next((group for group in groups if group.label == ours), None)
            if own is None:
                continue
            rows += [
                _condition(own.cell) | {"claim": f"{ours} above {label}"} | compared
                for label, compared in _compared(own, groups).items()
            ]
        return rows

    def agreement(self) -> list[Row]:
        """Each full-stack run beside the light trainer's of the same condition.

        Compared is the mean accuracy over those of the last evaluations' updates at which both
        evaluate: of the light trainer's run of the same seed, and of all its runs. One run of the
        full stack has no interval, so there is no verdict.
        """
        store = full_stack_store(self._store)
        rows = []
        for cell in self.study.full_stack.cells():
            group = next((g for g in self.groups if _same_but_seed(g.cell, cell)), None)
            if group is None or store.missing([cell]):
                continue
            full = store.load(cell)
            updates = self._compared_updates(dict(map(tuple, full["evaluations"])))
            light = {seed: _mean_at(run.result, updates) for seed, run in group.runs.items()}
            rows.append(
                _condition(cell)
                | {
                    "loss": group.label,
                    "seed": cell.seed,
                    "updates": updates,
                    "full_stack": _mean_at(full, updates),
                    "light_same_seed": light.get(cell.seed),
                    "light": fmean(light.values()),
                    "seeds": len(light),
                }
            )
        return rows

    def _compared_updates(self, accuracy: Mapping[int, float]) -> list[int]:
        recipe = self.study.recipe
        last = recipe.last_evaluations * recipe.evaluate_every
        return [
            update
            for update in accuracy
            if update > recipe.updates - last and update % recipe.evaluate_every == 0
        ]

    def tuned(self) -> list[Row]:
        """Each family's choice and each untuned loss on the seeds of the report; empty before
        every family has one. Comparisons, over all tasks together, are those of `tuned`."""
        tuning = self.study.tuning
        if tuning is None:
            return []
        chosen = tuning.progress(self._store.final).chosen
        reported = tuning.reported(chosen).items()
        labels = {(setting.label, rate): label for label, (setting, rate) in reported}
        rows = []
        for group in self._grouped(tuning.report(chosen)):
            label = labels[group.label, group.cell.learning_rate]
            choice = chosen.get(label)
            rows.append(
                {
                    "loss": label,
                    "chosen": group.cell.loss.label,
                    "learning_rate": group.cell.learning_rate,
                    "tried": choice.tried if choice else None,
                    "at_edge": choice.at_edge if choice else None,
                    "tuning_score": choice.score if choice else None,
                    "seeds": len(group.runs),
                    "final": group.final.mean,
                    "final_half_width": group.final.half_width,
                }
            )
        return rows

    def runs(self) -> list[Finished]:
        """Every run that is finished, those of the tuning included, each once."""
        return [self._finish(c) for c in self._present(self.study.all_cells(self._store.final))]


def _same_but_seed(a: Cell, b: Cell) -> bool:
    return a.condition() == b.condition() and a.loss.label == b.loss.label


def _mean_at(result: Mapping[str, Any], updates: Sequence[int]) -> float:
    accuracy = dict(map(tuple, result["evaluations"]))
    return fmean(accuracy[update] for update in updates)


def _condition(cell: Cell) -> Row:
    return {
        "N": cell.updates_per_batch,
        "lag": cell.lag,
        "learning_rate": cell.learning_rate,
        "mu_noise": cell.mu_noise,
        "engine_noise": cell.engine_noise,
        "sampler": cell.sampler_dtype,
    }


def _compared(own: Group, groups: Sequence[Group]) -> dict[str, Row]:
    """Label -> own against each of the other groups, corrected for how many they are."""
    pairs = {group.label: paired(own.finals, group.finals) for group in groups if group is not own}
    pairs = {label: by_seed for label, by_seed in pairs.items() if by_seed}
    return {
        label: {
            "difference": comparison.difference.mean,
            "difference_half_width": comparison.difference.half_width,
            "paired_seeds": comparison.difference.count,
            "p": comparison.p,
            "sign_flip_p": comparison.sign_flip_p,
            "holm_p": comparison.holm_p,
            "verdict": comparison.verdict(),
        }
        for label, comparison in zip(pairs, compare(list(pairs.values())), strict=True)
    }


def _last_quarter(group: Group) -> Any:
    def mean(name: str) -> float | None:
        tails = [curve[-max(1, len(curve) // 4) :] for curve in group.curves(name)]
        values = [value for tail in tails for value in tail]
        return sum(values) / len(values) if values else None

    return mean
