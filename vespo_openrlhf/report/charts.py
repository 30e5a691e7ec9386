"""The pictures of a run report."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from vespo_openrlhf.pages import SERIES, Block, figure, line_style, plotting

from .catalogue import Chart
from .runs import Run, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More points than this are drawn faintly, under their moving average over a fortieth of them.
_SMOOTHED_FROM = 80
# Where the largest value is this many times the median (all positive), the axis is logarithmic.
_LOG_RANGE = 1000.0
# |log W| beyond this many nats would flatten all else on a linear axis.
_WIDE_LOG_W = 30.0
_LAG_COLUMNS, _LAG_ROWS = 160, 48


def draw(chart: Chart, runs: Sequence[Run]) -> Block | None:
    """The chart, or None where no run has the metric."""
    found = find(chart, runs)
    if not found:
        return None
    missing = [run.name for index, run in enumerate(runs) if index not in found]
    note = f" Not logged: {', '.join(missing)}." if missing else ""
    return plot(
        chart.title,
        chart.caption + note,
        {runs[index].name: series for index, series in found.items()},
        lambda axes: curves(axes, found, chart),
        runs[0].axis,
    )


def find(chart: Chart, runs: Sequence[Run]) -> dict[int, Series]:
    """The chart's series by the index of its run, of the runs that have one."""
    logged = {index: run.series(*chart.names) for index, run in enumerate(runs)}
    return {index: series for index, series in logged.items() if series and series.finite}


def draw_series(title: str, found: Mapping[int, Series], runs: Sequence[Run]) -> Block:
    """A metric that no chart of ours describes, by run index."""
    chart = Chart(title, (), "")
    named = {runs[index].name: series for index, series in found.items()}
    return plot(title, "", named, lambda axes: curves(axes, found, chart), runs[0].axis)


def plot(
    title: str,
    caption: str,
    named: Mapping[str, Series],
    paint: Callable[[Axes], None],
    x_label: str,
) -> Block:
    """A figure over batches or updates; who cannot see it is told its first and last values."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    ends = [
        f"{name} from {series.finite[0]:.3g} to {series.finite[-1]:.3g}"
        for name, series in named.items()
        if series.finite
    ]
    with plotting():
        drawing = Figure()
        axes = drawing.subplots()
        paint(axes)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return figure(drawing, caption, f"{title}: {'; '.join(ends)}", title=title)


def curves(axes: Axes, found: Mapping[int, Series], chart: Chart) -> None:
    """Draw the runs' series, by the index of the run, as the chart has them."""
    for index, series in found.items():
        _curve(axes, series, line_style(index))
    values = [value for series in found.values() for value in series.finite]
    if chart.share:
        from matplotlib.ticker import PercentFormatter

        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.set_ylim(0, 1.03 if chart.whole else max(0.05, 1.08 * max(values)))
    elif min(values) > 0 and max(values) > _LOG_RANGE * median(values):
        axes.set_yscale("log")
    elif chart.from_zero and min(values) >= 0:
        axes.set_ylim(0, 1.08 * max(values) or 1.0)


def _curve(axes: Axes, series: Series, style: dict[str, Any]) -> None:
    if len(series.finite) == 1:
        style = {**style, "marker": "o", "markersize": 4}
    if len(series.values) <= _SMOOTHED_FROM:
        axes.plot(series.steps, series.values, **style)
        return
    axes.plot(series.steps, series.values, **{**style, "alpha": 0.25, "linewidth": 0.9})
    axes.plot(series.steps, moving_average(series.values, len(series.values) // 40), **style)


def moving_average(values: Sequence[float], width: int) -> list[float]:
    """Mean over the last `width` values that are finite; nan where there is none."""
    averages = []
    for end in range(1, len(values) + 1):
        window = [v for v in values[max(0, end - width) : end] if math.isfinite(v)]
        averages.append(sum(window) / len(window) if window else math.nan)
    return averages


def draw_quantiles(title: str, name: str, caption: str, runs: Sequence[Run]) -> Block | None:
    """The middle, and the band from the 5 % to the 95 % quantile, of `name` over batches."""
    found: dict[int, list[Series]] = {}
    for index, run in enumerate(runs):
        logged = [run.series(f"{name}_{quantile}") for quantile in ("p05", "p50", "p95")]
        quantiles = [series for series in logged if series and series.finite]
        if len(quantiles) == len(logged):
            found[index] = quantiles
    if not found:
        return None

    def paint(axes: Axes) -> None:
        for index, (low, middle, high) in found.items():
            style = line_style(index)
            band = {"color": style["color"], "alpha": 0.16, "linewidth": 0}
            axes.fill_between(low.steps, low.values, high.values, **band)
            axes.plot(middle.steps, middle.values, **style)
        values = [v for series in found.values() for part in series for v in part.finite]
        if max(map(abs, values)) > _WIDE_LOG_W:
            axes.set_yscale("symlog", linthresh=1.0)

    middles = {runs[index].name: middle for index, (_, middle, _) in found.items()}
    caption = f"{caption} Line: median; band: 5 % to 95 % quantile."
    return plot(title, caption, middles, paint, runs[0].axis)


def draw_by_lag(title: str, name: str, caption: str, runs: Sequence[Run]) -> Block | None:
    """A metric of samples by their age, over the whole run, in the ranges it is logged in."""
    from matplotlib.figure import Figure

    by_lag = {run.name: run.by_lag(name) for run in runs}
    lags = sorted({lag for curve in by_lag.values() for lag in curve})
    if len(lags) < 2:
        return None
    labels = ["–".join(map(str, sorted(set(lag)))) for lag in lags]
    ends = []
    with plotting():
        drawing = Figure()
        axes = drawing.subplots()
        for index, (run_name, curve) in enumerate(by_lag.items()):
            values = [curve.get(lag, math.nan) for lag in lags]
            axes.plot(labels, values, marker="o", markersize=4, **line_style(index))
            ends += [f"{run_name} " + ", ".join(f"{value:.3g}" for value in values)]
        axes.set(xlabel="lag of the oldest token (updates)")
        axes.set_ylim(bottom=0)
        return figure(drawing, caption, f"{title}: {'; '.join(ends)}", title=title)


def draw_lags(run: Run) -> Block | None:
    """How old the tokens were that each batch trained on: a picture of lag by batch."""
    bins = run.histogram(r"lag_tokens/(\d+)")
    if not any(sum(series.finite) > 0 for series in bins.values()):
        return None
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    steps = next(iter(bins.values())).steps
    columns = min(len(steps), _LAG_COLUMNS)
    height = max(bins) + 1
    rows = min(height, _LAG_ROWS)
    shares = np.zeros((rows, columns))
    counts = np.bincount([i * columns // len(steps) for i in range(len(steps))], minlength=columns)
    for lag, series in bins.items():
        for i, share in enumerate(series.values):
            if math.isfinite(share):
                shares[lag * rows // height, i * columns // len(steps)] += share
    shares /= counts
    mean = sum(lag * shares_of.ends()[1] for lag, shares_of in bins.items())
    title = "Lag of the tokens (updates)" + (f" · {run.name}" if run.name else "")
    with plotting():
        drawing = Figure()
        axes = drawing.subplots()
        image = axes.imshow(
            shares,
            origin="lower",
            aspect="auto",
            extent=(steps[0] - 0.5, steps[-1] + 0.5, -0.5, height - 0.5),
            cmap=_transparent_to(SERIES[0]),
            vmin=0,
            # The first batches hold one lag alone, and would leave all later ones pale.
            vmax=float(np.quantile(shares[shares > 0], 0.98)),
        )
        axes.grid(False)
        axes.set(xlabel=run.axis)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True))
        bar = drawing.colorbar(image, ax=axes, format=PercentFormatter(1.0), pad=0.02, extend="max")
        bar.outline.set_visible(False)
        return figure(
            drawing,
            "Share of the batch's tokens by how many updates the policy had made since it sampled "
            "them.",
            f"{title}: {mean:.1f} on average at the end, at most {max(bins)}",
            title=title,
        )


def _transparent_to(colour: str) -> Any:
    """A colour map that shows the page through where there is nothing, light or dark."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgb

    rgb = to_rgb(colour)
    return LinearSegmentedColormap.from_list("lag", [(*rgb, 0.0), (*rgb, 1.0)])


def draw_timings(run: Run) -> Block | None:
    """Where a batch's seconds went, a line per stage."""
    names = [n for n in run.names if n.startswith("timing/")]
    found = {n.removeprefix("timing/"): run.series(n) for n in names}
    stages = {name: series for name, series in found.items() if series and series.finite}
    if not stages:
        return None

    def paint(axes: Axes) -> None:
        for index, (name, series) in enumerate(stages.items()):
            _curve(axes, series, {**line_style(index), "label": name.replace("_", " ")})
        # The line, not its faint copy, carries the label twice where it is smoothed.
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        axes.legend(unique.values(), unique.keys(), loc="upper right")
        axes.set_ylim(bottom=0)

    title = "Seconds per stage" + (f" · {run.name}" if run.name else "")
    caption = (
        "Of a batch; `reward` and `queue`, and `generation` beside them, are means over samples "
        "and groups. Generation runs beside training where it is asynchronous."
    )
    return plot(title, caption, stages, paint, run.axis)
