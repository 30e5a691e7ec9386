"""The secondary grids of docs/study/protocol.md: means under each condition, and no tests.

A grid of docs/study is the runs of a preset on a task, `PRESET/TASK/runs.csv`; a table has a row a
loss and a column a condition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vespo_openrlhf.pages import SERIES, plotting
from vespo_openrlhf.pages.figures import MUTED
from vespo_openrlhf.study import routing
from vespo_openrlhf.study.cells import BASE_RATE, Cell
from vespo_openrlhf.study.claims import larger_model
from vespo_openrlhf.study.claims.outcomes import Outcome, check_planned, key_of, read_runs
from vespo_openrlhf.study.presets import CONTROL, PRESETS
from vespo_openrlhf.study.statistics import estimate
from vespo_openrlhf.study.tables import markdown, percent
from vespo_openrlhf.study.tasks import get_task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Lines of the figure that have a colour; the others are grey.
NAMED = ("VESPO", "pessimistic", "TOPR", "GSPO", "GRPO", "SAPO")


@dataclass(frozen=True)
class Section:
    """A table of the page.

    Attributes:
        preset, task: whose runs.
        columns: heading -> what a cell has to be like.
    """

    preset: str
    task: str
    columns: Mapping[str, Callable[[Cell], bool]]


def _stale(updates_per_batch: int, lag: int = 0, rates: float = 1.0) -> Callable[[Cell], bool]:
    return lambda cell: (
        (cell.updates_per_batch, cell.lag, cell.learning_rate)
        == (updates_per_batch, lag, rates * BASE_RATE)
    )


def _mismatched(**facts: Any) -> Callable[[Cell], bool]:
    matched = {"mu_noise": 0.0, "engine_noise": 0.0, "sampler_dtype": "float32"} | facts
    return lambda cell: all(getattr(cell, name) == value for name, value in matched.items())


_BY_N = {f"N = {n}": _stale(n) for n in (4, 8, 16, 32, 64)}
_STALE = {f"N = {n}": _stale(n) for n in (8, 64)}
_FURTHER = {
    **{f"N = {n}, lag 64": _stale(n, lag=64) for n in (8, 64)},
    **{f"N = {n}, twice the rate": _stale(n, rates=2.0) for n in (8, 64)},
}
_MISMATCHES = {
    "none": _mismatched(),
    **{f"engine, {noise:g}": _mismatched(engine_noise=noise) for noise in (0.05, 0.2)},
    **{f"reported, {noise:g}": _mismatched(mu_noise=noise) for noise in (0.05, 0.2)},
    "bfloat16": _mismatched(sampler_dtype="bfloat16"),
}

#: Name of a marker on the page -> what belongs there.
SECTIONS = {
    "staleness": Section("paper", "uneven", _BY_N),
    "lag-and-rate": Section("paper", "uneven", _STALE | _FURTHER),
    "mismatch": Section("mismatch", "uneven", _MISMATCHES),
    "mismatch-others": Section("mismatch-others", "uneven", _MISMATCHES),
    "mismatch-long": Section("mismatch", "long", _MISMATCHES),
    "mismatch-addition": Section("mismatch", "addition", _MISMATCHES),
    "kernel": Section("kernel", "uneven", {"N = 64": _stale(64)}),
    "ablation": Section("ablation", "uneven", _STALE),
    "variants": Section("variants", "uneven", _STALE),
}


@dataclass(frozen=True)
class GridRuns:
    """A preset's cells as they stand in it, and how they ended, in the same order.

    The learning rates are the preset's, where BASE_RATE stands for the task's own.
    """

    cells: Sequence[Cell]
    outcomes: Sequence[Outcome]

    def found(self, loss: str, of: Callable[[Cell], bool]) -> list[Outcome]:
        """The outcomes of a loss, seed by seed."""
        pairs = zip(self.cells, self.outcomes, strict=True)
        return [outcome for cell, outcome in pairs if cell.loss.label == loss and of(cell)]


def read_grid(folder: Path, preset: str, task: str) -> GridRuns:
    """The runs of a preset on a task.

    Args:
        folder: docs/study.

    Raises:
        ValueError: see `read_runs` and `check_planned`.
    """
    path = folder / preset / task / "runs.csv"
    cells = PRESETS[preset].cells()
    planned = PRESETS[preset].at_rate(get_task(task).learning_rate).cells()  # in the same order
    runs = read_runs(path, task)
    check_planned(path, runs, planned, preset)
    return GridRuns(cells, [runs[key_of(cell)] for cell in planned])


def tables(folder: Path) -> dict[str, str]:
    """Name of a marker on the page -> what belongs there, in Markdown.

    Raises:
        ValueError: see `read_grid`, `routing.table` and `larger_model.table`.
    """
    made = {
        "routing": routing.table(folder / "routing" / "runs.csv"),
        "larger-model": larger_model.table(folder / "gpu" / "columns" / "runs.csv"),
    }
    read: dict[tuple[str, str], GridRuns] = {}
    for name, section in SECTIONS.items():
        source = (section.preset, section.task)
        if source not in read:
            read[source] = read_grid(folder, *source)
        made[name] = _table(read[source], section)
    return made


def _table(grid: GridRuns, section: Section) -> str:
    rows = []
    for loss in dict.fromkeys(cell.loss.label for cell in grid.cells):
        columns = list(section.columns.values())
        if loss == CONTROL.label:
            columns = [_control(grid, of) for of in columns]
        rows.append([loss, *(_shown(grid.found(loss, of)) for of in columns)])
    return markdown(["loss", *section.columns], rows)


def _control(grid: GridRuns, of: Callable[[Cell], bool]) -> Callable[[Cell], bool]:
    """Which cell the control of a column is: that which differs in N alone, if it was run."""
    conditions = {cell.condition()[1:] for cell in grid.cells if of(cell)}
    return lambda cell: cell.condition()[1:] in conditions


def _shown(found: Sequence[Outcome]) -> str:
    if not found:
        return "–"
    of_seeds = estimate([outcome.final for outcome in found])
    collapsed = sum(outcome.collapsed for outcome in found)
    return percent(of_seeds.mean, of_seeds.half_width) + (f" ({collapsed})" if collapsed else "")


def staleness(folder: Path) -> dict[str, list[float]]:
    """Loss -> mean final accuracy at each N, as the figure shows it.

    Raises:
        ValueError: see `read_grid`.
    """
    grid = read_grid(folder, "paper", "uneven")
    return {
        loss: [estimate([o.final for o in grid.found(loss, of)]).mean for of in _BY_N.values()]
        for loss in dict.fromkeys(cell.loss.label for cell in grid.cells)
        if loss != CONTROL.label
    }


def staleness_figure(means: Mapping[str, Sequence[float]]) -> Figure:
    """Final accuracy against N: a line a loss, those of NAMED in colour."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.4))
    axes = figure.subplots()
    others = [loss for loss in means if loss not in NAMED]
    for loss in others:
        label = "others" if loss == others[0] else None
        axes.plot(list(_BY_N), means[loss], color=MUTED, alpha=0.3, linewidth=1, label=label)
    for place, loss in enumerate(NAMED):
        axes.plot(list(_BY_N), means[loss], color=SERIES[place], marker="o", label=loss)
    axes.set(ylim=(0, 1.02), ylabel="final accuracy")
    figure.legend(loc="outside right upper")
    return figure


def draw(folder: Path, path: Path) -> None:
    """The figure as SVG; its title holds the numbers that it was drawn from.

    Raises:
        ValueError: see `read_grid`.
    """
    import matplotlib

    means = staleness(folder)
    with plotting(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "study"}):
        shown = "; ".join(f"{loss} {', '.join(map(percent, means[loss]))}" for loss in means)
        metadata = {"Date": None, "Title": f"Final accuracy, %, at {', '.join(_BY_N)}: {shown}"}
        staleness_figure(means).savefig(path, metadata=metadata, transparent=False)
