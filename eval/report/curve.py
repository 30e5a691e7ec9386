"""The accuracy of a training run's checkpoints over its steps."""

from __future__ import annotations

import json
from pathlib import Path

from vespo_openrlhf.eval.report.tables import problem_count
from vespo_openrlhf.eval.results.folder import SUMMARY

PICTURE = "accuracy.png"


def plot(out: Path) -> None:
    """Draw accuracy over steps, one line a benchmark with its 95 % interval."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves: dict[str, list[tuple[int, float, float, float]]] = {}
    for path in sorted(out.glob(f"step_*/{SUMMARY}")):
        step = int(path.parent.name.removeprefix("step_"))
        for name, numbers in json.loads(path.read_text())["benchmarks"].items():
            few = f" ({problem_count(numbers)})" if "of" in numbers else ""
            label = f"{name}{few}, avg@{numbers['repeats']}"
            curves.setdefault(label, []).append((step, numbers["avg@k"], *numbers["interval"]))
    figure, axes = pyplot.subplots(figsize=(7, 4.5), dpi=150)
    for label, points in sorted(curves.items()):
        steps, means, lows, highs = zip(*points, strict=True)
        (line,) = axes.plot(steps, [100 * m for m in means], marker="o", markersize=3, label=label)
        axes.fill_between(
            steps,
            [100 * low for low in lows],
            [100 * high for high in highs],
            color=line.get_color(),
            alpha=0.2,
            linewidth=0,
        )
    axes.set(xlabel="step", ylabel="accuracy, %", ylim=(0, 100))
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(out / PICTURE)
    pyplot.close(figure)
