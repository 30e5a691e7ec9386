"""The figures of a study, in the style of the pages; matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vespo_openrlhf.pages import line_style
from vespo_openrlhf.study.analysis import Analysis, Group
from vespo_openrlhf.study.presets import PUBLISHED
from vespo_openrlhf.study.statistics import accuracies, mean_curve
from vespo_openrlhf.study.tables import CONDITIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CONTROL_STYLE: dict[str, Any] = {"color": "#5f6772", "linestyle": ":", "linewidth": 1.4}
_SMOOTHED_OVER = 8  # updates; a single mini-batch's log W says little


def style_of(label: str, labels: Sequence[str]) -> dict[str, Any]:
    """The line of a loss: a published one has the same in every study."""
    known = list(PUBLISHED)
    if all(other in known for other in labels):
        return line_style(known.index(label))
    return line_style(list(labels).index(label))


def describe(group: Group, varying: Sequence[str]) -> str:
    """The condition of a group, as far as it varies: "N = 64, noise on log mu = 0.1"."""
    cell = group.cell
    values = dict(zip(_AXES, cell.condition(), strict=True))
    return ", ".join(
        f"{CONDITIONS[name]} = {values[name]:g}"
        if isinstance(values[name], int | float)
        else str(values[name])
        for name in _AXES
        if name in varying
    )


_AXES = ("N", "lag", "learning_rate", "mu_noise", "engine_noise", "sampler")


def varying_axes(groups: Sequence[Group]) -> list[str]:
    """The conditions that differ among the groups; N if none does."""
    columns = zip(*(group.cell.condition() for group in groups), strict=True)
    return [name for name, values in zip(_AXES, columns, strict=True) if len(set(values)) > 1] or [
        "N"
    ]


def accuracy_curves(analysis: Analysis, groups: Sequence[Group]) -> Figure:
    """Held-out accuracy over updates under one condition: the mean over seeds with a band of one
    standard error on either side."""
    figure, axes = _one_panel()
    control = analysis.control(groups[0].cell.learning_rate)
    if control is not None:
        _accuracy_line(axes, control, _CONTROL_STYLE, band=False)
    for group in groups:
        _accuracy_line(axes, group, style_of(group.label, analysis.labels), band=True)
    axes.set(ylim=(0, 1), xlabel="update", ylabel="held-out accuracy")
    figure.legend(loc="outside right upper")
    return figure


def _one_panel() -> tuple[Figure, Axes]:
    """Room for a legend beside the axes; narrow enough for a phone."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.4))
    return figure, figure.subplots()


def _accuracy_line(axes: Axes, group: Group, style: dict[str, Any], *, band: bool) -> None:
    updates = [update for update, _ in next(iter(group.runs.values())).result["evaluations"]]
    means, errors = mean_curve([accuracies(run.result) for run in group.runs.values()])
    axes.plot(updates, means, label=group.label, **style)
    if band:
        _band(axes, updates, means, errors, style)


def _band(
    axes: Axes,
    x: Sequence[float],
    means: Sequence[float],
    errors: Sequence[float],
    style: dict[str, Any],
) -> None:
    low = [mean - error for mean, error in zip(means, errors, strict=True)]
    high = [mean + error for mean, error in zip(means, errors, strict=True)]
    axes.fill_between(x, low, high, color=style["color"], alpha=0.15, linewidth=0)


def final_accuracy(analysis: Analysis) -> Figure:
    """Final accuracy against the first axis that varies, with 95 % intervals over seeds; whatever
    else varies is as in the first condition."""
    name = varying_axes(analysis.compared)[0]
    place = _AXES.index(name)

    def elsewhere(group: Group) -> tuple[Any, ...]:
        condition = group.cell.condition()
        return (*condition[:place], *condition[place + 1 :])

    shown = [g for g in analysis.compared if elsewhere(g) == elsewhere(analysis.compared[0])]
    values = sorted({group.cell.condition()[place] for group in shown})
    figure, axes = _one_panel()
    for control in analysis.controls:
        axes.axhline(control.final.mean, label=f"{control.label}", **_CONTROL_STYLE)
    for number, label in enumerate(analysis.labels):
        own = {g.cell.condition()[place]: g for g in shown if g.label == label}
        shift = 0.5 * ((number + 0.5) / len(analysis.labels) - 0.5)
        places = [values.index(value) + shift for value in own]
        axes.errorbar(
            places,
            [group.final.mean for group in own.values()],
            [_finite(group.final.half_width) for group in own.values()],
            marker="o",
            markersize=4,
            capsize=2,
            elinewidth=1,
            label=label,
            **style_of(label, analysis.labels),
        )
    axes.set_xticks(range(len(values)), [f"{v:g}" if name != "sampler" else v for v in values])
    axes.set(ylim=(0, 1), xlabel=CONDITIONS[name], ylabel="final accuracy")
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside right upper")
    return figure


def _finite(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def weights_over_updates(analysis: Analysis, name: str) -> Figure:
    """`log_w_abs_mean` or `ess` over updates, under the stalest condition."""
    figure, axes = _one_panel()
    for group in list(analysis.conditions().values())[-1]:
        curves = [_smooth(curve) for curve in group.curves(name)]
        if not curves:
            continue
        means, errors = mean_curve(curves)
        updates = [_SMOOTHED_OVER * (i + 0.5) for i in range(len(means))]
        style = style_of(group.label, analysis.labels)
        axes.plot(updates, means, label=group.label, **style)
        _band(axes, updates, means, errors, style)
    axes.set_xlabel("update")
    if name == "ess":
        axes.set(ylim=(0, 1), ylabel="share of the mini-batch")
    else:
        axes.set(yscale="log", ylabel="nats")
    figure.legend(loc="outside right upper")
    return figure


def _smooth(curve: Sequence[float]) -> list[float]:
    parts = [curve[i : i + _SMOOTHED_OVER] for i in range(0, len(curve), _SMOOTHED_OVER)]
    return [sum(part) / len(part) for part in parts]


def kernel_and_data(analysis: Analysis) -> Figure:
    """phi against log W for both signs of the advantage, and under it where the runs' W lie."""
    import torch
    from matplotlib.figure import Figure

    from vespo_openrlhf.losses import vespo_kernel
    from vespo_openrlhf.study.trainer import LOG_W_BINS, LOG_W_RANGE

    low, high = LOG_W_RANGE
    width = (high - low) / LOG_W_BINS
    log_w = low + width * (torch.arange(LOG_W_BINS, dtype=torch.float64) + 0.5)
    figure = Figure(figsize=(6.0, 4.4))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for sign, text, style in (
        (1.0, "A ≥ 0: (2, 3)", line_style(0)),
        (-1.0, "A < 0: (3, 2)", line_style(1)),
    ):
        phi = vespo_kernel(log_w, torch.full_like(log_w, sign))
        above.plot(log_w.tolist(), phi.tolist(), label=text, **style)
    above.set(ylabel="phi(W)")
    above.legend(loc="upper left")
    shown = [group for group in analysis.compared if group.label == "VESPO"]
    varying = varying_axes(analysis.compared)
    for number, group in enumerate(shown):
        counts = [0.0] * LOG_W_BINS
        for run in group.runs.values():
            counts = [a + b for a, b in zip(counts, run.result["log_w_histogram"], strict=True)]
        density = [count / sum(counts) / width for count in counts]
        style = line_style(number + 2)
        below.plot(log_w.tolist(), density, label=describe(group, varying), **style)
    below.set(xlabel="log W", ylabel="density, VESPO's runs", xlim=(-5, 4))
    below.set_yscale("log")
    below.set_ylim(1e-3, None)
    below.legend(loc="upper left")
    return figure
