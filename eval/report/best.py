"""The best checkpoint so far of a watched training run, and how far to believe it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vespo_openrlhf.eval.report.tables import percent
from vespo_openrlhf.eval.results.folder import MANIFEST, SUMMARY, write_json

BEST = "best.json"
AVERAGE = "average"
_NOTE = (
    "chosen on the problems it is measured on, so its value is too high on average, the more so "
    "the more checkpoints lie within error of it: report its accuracy on other problems"
)


@dataclass(frozen=True)
class Best:
    """The checkpoint with the highest value.

    Attributes:
        step: of training; of equals the first.
        checkpoint: its folder.
        metric: "average" of the benchmarks, or the avg@k of the benchmark that is named.
        value: of the metric.
        standard_error: of the value, over problems; None where one problem is all there is.
        of: how many checkpoints were compared.
        within_error: steps of others that are not below it by more than 1.96 standard errors of
            the difference; the errors are taken as independent, though the problems are the same,
            so that these are more rather than fewer than `vespo eval compare` would leave.
        left_out: steps evaluated with other settings or benchmarks than the newest.
        note: how to read it.
    """

    step: int
    checkpoint: str
    metric: str
    value: float
    standard_error: float | None
    of: int
    within_error: tuple[int, ...]
    left_out: tuple[int, ...]
    note: str = _NOTE

    def text(self) -> str:
        """A line for the terminal."""
        error = "" if self.standard_error is None else f" ± {percent(self.standard_error)}"
        of = f"{self.of} checkpoint" + ("s" if self.of > 1 else "")
        if self.left_out:
            of += f", {len(self.left_out)} evaluated otherwise left out"
        return (
            f"best so far: step {self.step}, {self.metric} {percent(self.value)}{error} % (of {of};"
            f" {len(self.within_error)} within error of it; chosen on these very problems, so too "
            "high: report it on others)"
        )


@dataclass(frozen=True)
class _Point:
    step: int
    checkpoint: str
    conditions: dict[str, Any]
    value: float
    error: float | None


def find_best(out: Path, metric: str = AVERAGE) -> Best | None:
    """Find the best of what `vespo eval watch` has evaluated, and write it to `best.json`.

    Args:
        out: its folder.
        metric: "average", or the name of a benchmark.

    Returns:
        None where nothing has been evaluated.

    Raises:
        ValueError: an evaluation lacks the benchmark.
        EvaluationError: the disk does not take the file.
    """
    paths = sorted(path.parent for path in out.glob(f"step_*/{SUMMARY}"))
    points = [_read(path, metric) for path in paths]
    if not points:
        return None
    newest = max(points, key=lambda point: point.step)
    alike = [point for point in points if point.conditions == newest.conditions]
    best = max(alike, key=lambda point: (point.value, -point.step))
    others = [point for point in alike if point is not best]
    found = Best(
        step=best.step,
        checkpoint=best.checkpoint,
        metric=metric,
        value=best.value,
        standard_error=best.error,
        of=len(alike),
        within_error=tuple(point.step for point in others if _within_error(best, point)),
        left_out=tuple(point.step for point in points if point not in alike),
    )
    write_json(out / BEST, asdict(found))
    return found


def _read(folder: Path, metric: str) -> _Point:
    summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if metric == AVERAGE:
        value, error = summary["average"], summary.get("average_standard_error")
    elif metric in summary["benchmarks"]:
        numbers = summary["benchmarks"][metric]
        value, error = numbers["avg@k"], numbers["standard_error"]
    else:
        raise ValueError(
            f"--best {metric}: {folder} has {', '.join(summary['benchmarks'])}; give one of these, "
            f"or {AVERAGE}"
        )
    covered = {name: [n["problems"], n["repeats"]] for name, n in summary["benchmarks"].items()}
    conditions = {"settings": manifest["settings"], "covered": covered}
    return _Point(
        int(folder.name.removeprefix("step_")), manifest["model"], conditions, value, error
    )


def _within_error(best: _Point, other: _Point) -> bool:
    if best.error is None or other.error is None:
        return True
    return best.value - other.value <= 1.96 * math.hypot(best.error, other.error)
