"""Training dynamics of one run or several: the paper's panel of eight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vespo_openrlhf.pages import distinct_names, line_style, plotting
from vespo_openrlhf.report import catalogue, charts
from vespo_openrlhf.report.catalogue import Chart
from vespo_openrlhf.report.runs import Run, Series, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS, _BENCHMARKS = 4, 2


def draw(folders: Sequence[Path], benchmarks: Sequence[str] = ()) -> Figure:
    """Reward, length, entropy, KL to the rollout, its log-perplexity, gradient norm, accuracy.

    Over optimizer updates, where every run has its `updates.jsonl`; else over rollout batches.

    Args:
        folders: run folders (`--run.dir`).
        benchmarks: names of `Run.accuracy`; none for the first two there are.

    Raises:
        ValueError: a folder holds no training metrics, or no run has such a benchmark.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    names = distinct_names(folders)
    runs = [read_run(folder, name) for folder, name in zip(folders, names, strict=True)]
    if all(run.knows_its_updates for run in runs):
        runs = [run.over_updates() for run in runs]
    panels = _panels(runs, benchmarks)
    rows = -(-len(panels) // _COLUMNS)
    with plotting():
        drawing = Figure(figsize=(3.3 * _COLUMNS, 2.5 * rows + 0.4))
        grid = drawing.subplots(rows, _COLUMNS, squeeze=False).flatten()
        for axes, (chart, found) in zip(grid, panels, strict=False):
            axes.set_title(chart.title)
            axes.set_xlabel(runs[0].axis)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            if found:
                charts.curves(axes, found, chart)
            else:
                axes.set(xticks=[], yticks=[])
                axes.text(0.5, 0.5, "not logged", ha="center", transform=axes.transAxes)
        drawn = [axes for axes, (_, found) in zip(grid, panels, strict=False) if found]
        limits = [axes.get_xlim() for axes in drawn] or [(0.0, 1.0)]
        left, right = min(low for low, _ in limits), max(high for _, high in limits)
        for axes in drawn:  # accuracy is seldom known of the first and the last update
            axes.set_xlim(left, right)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for index, name in enumerate(names):
            grid[0].plot([], [], label=name, **line_style(index))
        drawing.legend(loc="outside upper center", ncols=min(len(names), _COLUMNS))
    return drawing


def _panels(
    runs: Sequence[Run], benchmarks: Sequence[str]
) -> list[tuple[Chart, dict[int, Series]]]:
    accuracies = [run.accuracy() for run in runs]
    known = list(dict.fromkeys(name for accuracy in accuracies for name in accuracy))
    for name in benchmarks:
        if name not in known:
            there = ", ".join(known) or "none"
            raise ValueError(f"no run was evaluated on {name}; there are: {there}")
    chosen = benchmarks or known[:_BENCHMARKS]
    panels = [(chart, charts.find(chart, runs)) for chart in catalogue.DYNAMICS]
    for name in chosen:
        found = {i: accuracy[name] for i, accuracy in enumerate(accuracies) if name in accuracy}
        panels.append((Chart(f"Accuracy on {name}", (), "", share=True), found))
    spare = catalogue.DYNAMICS_ELSE[: max(0, _BENCHMARKS - len(chosen))]
    return panels + [(chart, charts.find(chart, runs)) for chart in spare]
