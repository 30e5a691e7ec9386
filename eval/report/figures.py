"""The pictures of an evaluation report that matplotlib draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vespo_openrlhf.pages import Block, figure, line_style, plotting

from .folders import Evaluation, Generation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BINS = 8
_LEAST_IN_BIN = 20


def draw_accuracy(evaluations: Sequence[Evaluation], benchmarks: Sequence[str]) -> Block:
    """Accuracy and its interval, a row per benchmark, a mark per evaluation."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    spread = 0.4 if len(evaluations) > 1 else 0.0
    step = spread / max(1, len(evaluations) - 1)
    height = 0.7 + len(benchmarks) * (0.3 + 0.13 * len(evaluations))
    with plotting():
        drawing = Figure(figsize=(4.8, height))
        axes = drawing.subplots()
        for index, evaluation in enumerate(evaluations):
            for row, benchmark in enumerate(benchmarks):
                numbers = evaluation.summary.get(benchmark)
                if numbers is None:
                    continue
                y = row - spread / 2 + index * step
                colour = line_style(index)["color"]
                low, high = numbers["interval"]
                axes.plot([low, high], [y, y], color=colour)
                axes.plot([numbers["avg@k"]], [y], "o", color=colour, markersize=5)
        axes.set_yticks(range(len(benchmarks)), benchmarks)
        axes.set_ylim(len(benchmarks) - 0.5, -0.5)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="y", visible=False)
        return figure(
            drawing,
            "Mean over repeats and problems; the line is the 95 % interval over problems. Whether "
            "two models differ is better asked of `vespo eval compare`, which pairs them.",
            "Accuracy with intervals; the table below has the numbers.",
            title="Accuracy",
        )


def draw_pass_at_k(evaluations: Sequence[Evaluation], benchmark: str) -> Block | None:
    """pass@k and maj@k against k, or None where there is one repeat only."""
    curves = {
        index: evaluation.summary[benchmark]
        for index, evaluation in enumerate(evaluations)
        if len(evaluation.summary.get(benchmark, {}).get("pass@k", {})) > 1
    }
    if not curves:
        return None
    from matplotlib.figure import Figure

    told = []
    with plotting():
        drawing = Figure()
        axes = drawing.subplots()
        for index, numbers in curves.items():
            ks, passes = _by_k(numbers["pass@k"])
            style = line_style(index)
            intervals = numbers.get("pass@k_interval") or {}
            if all(str(k) in intervals for k in ks):
                low, high = zip(*(intervals[str(k)] for k in ks), strict=True)
                axes.fill_between(ks, low, high, color=style["color"], alpha=0.14, linewidth=0)
            axes.plot(ks, passes, marker="o", markersize=3.5, **style)
            told.append(f"{evaluations[index].name} pass@{ks[-1]} {passes[-1]:.3f}")
            if numbers.get("maj@k"):
                axes.plot(*_by_k(numbers["maj@k"]), color=style["color"], linestyle=":")
        ticks = sorted({k for numbers in curves.values() for k in _by_k(numbers["pass@k"])[0]})
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, map(str, ticks))
        axes.minorticks_off()
        axes.set_xlabel("k (samples)")
        _percent(axes)
        return figure(
            drawing,
            "Solid: pass@k, at least one of k right, with its 95 % interval. Dotted: maj@k, the "
            "most frequent of k answers right.",
            f"{benchmark}: {'; '.join(told)}",
            title=f"{benchmark}: pass@k and maj@k",
        )


def draw_lengths(
    evaluations: Sequence[Evaluation],
    benchmark: str,
    generations: Sequence[Sequence[Generation]],
) -> Block | None:
    """Accuracy against response length, or None where lengths are not known.

    Args:
        evaluations: in the order of `generations`.
        benchmark: which one.
        generations: of each evaluation.
    """
    binned = {i: curve for i, g in enumerate(generations) if len(curve := _by_length(g)) > 1}
    if not binned:
        return None
    from matplotlib.figure import Figure

    told = []
    with plotting():
        drawing = Figure()
        axes = drawing.subplots()
        for index, curve in binned.items():
            style = line_style(index)
            lengths, shares, low, high = zip(*curve, strict=True)
            axes.fill_between(lengths, low, high, color=style["color"], alpha=0.14, linewidth=0)
            axes.plot(lengths, shares, marker="o", markersize=3.5, **style)
            told.append(
                f"{evaluations[index].name} {shares[0]:.2f} at {lengths[0]:.0f} tokens, "
                f"{shares[-1]:.2f} at {lengths[-1]:.0f}"
            )
        longest = max(curve[-1][0] for curve in binned.values())
        if longest > 8 * min(max(1.0, curve[0][0]) for curve in binned.values()):
            from matplotlib.ticker import LogLocator, StrMethodFormatter

            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.minorticks_off()
        axes.set_xlabel("response length (tokens)")
        _percent(axes)
        return figure(
            drawing,
            "Responses in groups of equal size by length; the band is the 95 % interval as if "
            "they were independent.",
            f"{benchmark}: {'; '.join(told)}",
            title=f"{benchmark}: accuracy by length",
        )


def _by_length(generations: Sequence[Generation]) -> list[tuple[float, float, float, float]]:
    """(mean length, accuracy, low, high) of groups of equal size, shortest first."""
    known = sorted((g.tokens, g.correct) for g in generations if g.tokens is not None)
    bins = min(_BINS, len(known) // _LEAST_IN_BIN)
    curve = []
    for index in range(bins):
        part = known[index * len(known) // bins : (index + 1) * len(known) // bins]
        right = sum(correct for _, correct in part)
        length = sum(tokens for tokens, _ in part) / len(part)
        curve.append((length, right / len(part), *wilson(right, len(part))))
    return curve


def wilson(right: int, count: int) -> tuple[float, float]:
    """95 % interval of a share, right / count (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(right, count).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


def _by_k(values: Mapping[str, float]) -> tuple[list[int], list[float]]:
    pairs = sorted((int(k), value) for k, value in values.items())
    return [k for k, _ in pairs], [value for _, value in pairs]


def _percent(axes: Axes) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(0, 1.02)
    formatter: Any = PercentFormatter(1.0)
    axes.yaxis.set_major_formatter(formatter)
