"""The run in one picture: reward, and the importance weight, over rollout batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def plot_run(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Write a PNG with the reward above and log W (mean, and mean +- one standard deviation) below.

    Args:
        lines: training lines of a run with a loss that has an importance weight.
        path: the PNG.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = [line["step"] for line in lines]
    mean = [line["vespo/log_w_mean"] for line in lines]
    deviation = [line["vespo/log_w_std"] for line in lines]
    figure, (above, below) = pyplot.subplots(2, 1, sharex=True, figsize=(7, 6), dpi=150)
    above.plot(steps, [line["rollout/reward_mean"] for line in lines], color="tab:blue")
    above.set(ylabel="mean reward", ylim=(0, 1), title="VESPO, asynchronous, off-policy")
    below.plot(steps, mean, color="tab:orange", label="mean")
    below.fill_between(
        steps,
        [m - d for m, d in zip(mean, deviation, strict=True)],
        [m + d for m, d in zip(mean, deviation, strict=True)],
        color="tab:orange",
        alpha=0.25,
        linewidth=0,
        label="± one standard deviation",
    )
    below.axhline(0, color="grey", linewidth=0.8, linestyle=":")
    below.set(xlabel="rollout batch", ylabel="log W")
    below.legend(loc="lower left", frameon=False)
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)
