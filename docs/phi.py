"""Draw phi(W) from the code's own kernel: `python docs/phi.py [FILE.svg]`, docs/phi.svg if none."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import torch

from vespo_openrlhf.losses.kernel import kernel_bound, vespo_kernel

# Middle tones on no background: read as well on a dark page as on a light one.
GREY, BLUE, ORANGE = "#808080", "#3b82f6", "#d97706"


def draw(path: Path) -> None:
    """Write the plot as SVG with text as text."""
    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "phi"})
    from matplotlib import pyplot

    log_w = torch.linspace(-4, 2.5, 400, dtype=torch.float64)
    figure, axes = pyplot.subplots(figsize=(7, 3.6), layout="constrained")
    for sign, colour, c1, c2 in ((1, BLUE, 2, 3), (-1, ORANGE, 3, 2)):
        phi = vespo_kernel(log_w, torch.full_like(log_w, sign))
        label = f"A {'≥' if sign > 0 else '<'} 0:  (c1, c2) = ({c1}, {c2})"
        axes.plot(log_w.exp(), phi, color=colour, linewidth=2, label=label)
        axes.plot(c1 / c2, kernel_bound(c1, c2), "o", color=colour)
    axes.plot(log_w.exp(), log_w.exp(), color=GREY, linestyle=":", label="W itself")
    axes.axvline(1, color=GREY, linewidth=0.8)
    axes.set(xlabel="importance weight W of the whole response", ylabel="coefficient φ(W)")
    axes.set(xscale="log", ylim=(0, 1.6), xlim=(log_w[0].exp(), log_w[-1].exp()))
    ticks = (0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.tick_params(colors=GREY)
    axes.xaxis.label.set_color(GREY)
    axes.yaxis.label.set_color(GREY)
    for side, spine in axes.spines.items():
        spine.set_color(GREY)
        spine.set_visible(side in ("left", "bottom"))
    axes.legend(loc="upper left", frameon=False, labelcolor=GREY)
    figure.savefig(path, transparent=True, metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_suffix(".svg"))
