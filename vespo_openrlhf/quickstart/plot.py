"""The run in one picture: reward, and the importance weight, over rollout batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vespo_openrlhf.pages import line_style, plotting


def plot_run(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the mean reward, and beside it log W: its mean, and one standard deviation around it.

    Args:
        lines: training lines of a run with a loss that has an importance weight.
        path: PNG or SVG, by its ending.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    steps = [line["step"] for line in lines]
    mean = [line["vespo/log_w_mean"] for line in lines]
    deviation = [line["vespo/log_w_std"] for line in lines]
    low, high = ([m + side * d for m, d in zip(mean, deviation, strict=True)] for side in (-1, 1))
    with plotting():
        drawing = Figure(figsize=(7.2, 2.6))
        left, right = drawing.subplots(1, 2, sharex=True)
        left.plot(steps, [line["rollout/reward_mean"] for line in lines], **line_style(0))
        left.set(title="mean reward", ylim=(0, 1))
        right.plot(steps, mean, **line_style(1))
        right.fill_between(steps, low, high, color=line_style(1)["color"], alpha=0.2, linewidth=0)
        right.axhline(0, linewidth=0.8, linestyle=":", color="grey")
        right.set_title("log W: mean, and one standard deviation")
        for axes in (left, right):
            axes.set_xlabel("rollout batch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    drawing.savefig(path, dpi=150)
