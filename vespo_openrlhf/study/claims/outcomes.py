"""The committed runs read back: how each ended, and whether they are the ones that were planned."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vespo_openrlhf.study.cells import Cell
from vespo_openrlhf.study.tables import CONDITIONS, read_rows

TASKS = ("addition", "uneven", "long")


@dataclass(frozen=True)
class Outcome:
    """Of one run: final accuracy, how far below its own best that is, and whether it collapsed."""

    final: float
    drop: float
    collapsed: bool


#: Loss -> seed -> outcome, under one condition.
Outcomes = Mapping[str, Mapping[int, Outcome]]
#: Label and options of the loss, the condition, the seed.
Key = tuple[Any, ...]


def key_of(cell: Cell) -> Key:
    """What tells a run apart from the others of a runs.csv."""
    options = json.dumps(dict(cell.loss.options), sort_keys=True)
    return (cell.loss.label, options, *cell.condition(), cell.seed)


def read_runs(path: Path, task: str) -> dict[Key, Outcome]:
    """The outcomes in a runs.csv, by `key_of`. A run that failed is a row whose `final` is empty:
    it has nothing right.

    Raises:
        ValueError: see `read_rows`; a run of another task, one twice, an accuracy not finite.
    """
    found: dict[Key, Outcome] = {}

    def take(row: Mapping[str, str]) -> None:
        condition = (
            *(int(row["N"]), int(row["lag"]), float(row["learning_rate"])),
            *(float(row["mu_noise"]), float(row["engine_noise"]), row["sampler"]),
        )
        options = json.dumps(json.loads(row["options"]), sort_keys=True)
        key = (row["loss"], options, *condition, int(row["seed"]))
        if row["task"] != task or key in found:
            raise ValueError(f"{_named(key)} is of another task than {task}, or is there twice")
        final, best = (float(row[name]) if row[name] else 0.0 for name in ("final", "best"))
        if not math.isfinite(final + best):
            raise ValueError("an accuracy is not finite")
        found[key] = Outcome(final, best - final, row["collapsed"] == "True" or not row["final"])

    read_rows(path, take)
    return found


def check_planned(
    path: Path, found: Collection[Key], planned: Iterable[Cell], preset: str, optional: str = ""
) -> None:
    """Nothing was left out and nothing added.

    Args:
        path: of the runs, for the message.
        found: keys of them.
        planned: exactly these.
        preset: which makes them, for the message.
        optional: label of a loss that may lack seeds, if it has any.

    Raises:
        ValueError: a run that was not planned, or one that is missing.
    """
    wanted = {key_of(cell) for cell in planned}
    some = any(key[0] == optional for key in found)
    missing = {key for key in wanted - set(found) if not (some and key[0] == optional)}
    if missing:
        raise ValueError(
            f"{path}: {len(missing)} runs of the preset {preset} are missing, among them "
            f"{_named(min(missing, key=str))}: run it to its end"
        )
    if others := set(found) - wanted:
        raise ValueError(
            f"{path}: {len(others)} runs are not of the preset {preset}, among them "
            f"{_named(min(others, key=str))}: keep its own alone"
        )


def _named(key: Key) -> str:
    label, options, *condition, seed = key
    conditions = zip(CONDITIONS.values(), condition, strict=True)
    said = ", ".join(f"{name} {value}" for name, value in conditions)
    return f"{label} {options} at {said} on seed {seed}"
