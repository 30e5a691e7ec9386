"""The preset `gpu` on the page: those of its runs that a GPU has had time for, one by one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vespo_openrlhf.study.claims.outcomes import check_planned, key_of, read_runs
from vespo_openrlhf.study.presets import PRESETS
from vespo_openrlhf.study.tables import markdown, percent, read_rows
from vespo_openrlhf.study.tasks import get_task


def table(path: Path) -> str:
    """A row a run, in Markdown.

    Args:
        path: a runs.csv, with any of the preset's runs.

    Raises:
        ValueError: see `read_runs`; a run that is not of the preset.
    """
    study = PRESETS["gpu"]
    task = study.recipe.task
    found = read_runs(path, task)
    cells = study.at_rate(get_task(task).learning_rate).cells()
    check_planned(path, found, [cell for cell in cells if key_of(cell) in found], study.name)
    rows: list[list[str]] = []

    def take(row: Mapping[str, str]) -> None:
        accuracies = (percent(float(row[name] or "nan")) for name in ("start", "final"))
        rows.append([row["loss"], row["N"], row["seed"], *accuracies])

    read_rows(path, take)
    return markdown(["loss", "N", "seed", "warm start, %", "final accuracy, %"], rows)
