"""Finished runs on disk: one file each, written whole or not at all, so that a study resumes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean
from typing import Any

from vespo_openrlhf.files import write_text
from vespo_openrlhf.study.cells import Cell, Recipe


class Store:
    """Results under `folder`/runs, by the key of their cell and recipe.

    Args:
        folder: of the study; made when something is written.
        recipe: of its runs.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe

    def _path(self, cell: Cell) -> Path:
        return self.folder / "runs" / f"{cell.key(self.recipe)}.json"

    def missing(self, cells: Iterable[Cell]) -> list[Cell]:
        """Those that have not been run."""
        return [cell for cell in cells if not self._path(cell).exists()]

    def save(self, cell: Cell, result: dict[str, Any]) -> None:
        """Keep a result."""
        write_text(self._path(cell), json.dumps(result))

    def load(self, cell: Cell) -> dict[str, Any]:
        """The result of a cell that was run."""
        result: dict[str, Any] = json.loads(self._path(cell).read_text(encoding="utf-8"))
        return result

    def final(self, cell: Cell) -> float | None:
        """Mean accuracy of the last evaluations; None of a cell that has not been run."""
        if self.missing([cell]):
            return None
        last = self.load(cell)["evaluations"][-self.recipe.last_evaluations :]
        return fmean(accuracy for _, accuracy in last)
