"""The cells side by side: on the screen, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from vespo_openrlhf.replay.accuracy import Mean
from vespo_openrlhf.replay.cells import Cell
from vespo_openrlhf.report.runs import read_run

#: A cell's figures by name; nan where its loss logs none.
Figures = Mapping[str, Mean]

#: Figures of the first and the last rollout batch, and what they are logged under.
_OF_BATCHES = {
    "log_w_abs_mean": ("log_w_abs_mean",),
    "ess_ratio": ("ess_ratio",),
    "phi_mean": ("phi_mean",),
    "grad_norm": ("grad_norm_mean", "actor_grad_norm"),
}
_TITLES = {"log_w_abs_mean": "|log W|", "ess_ratio": "ESS", "phi_mean": "phi"}
_ENDS = ("first", "last")
_NONE = "-"


class Result(NamedTuple):
    """A finished cell."""

    cell: Cell
    figures: Figures


def figures(folder: Path, accuracy: Mapping[str, Mean]) -> dict[str, Mean]:
    """Of a cell.

    Args:
        folder: its run folder.
        accuracy: of its model, by benchmark.

    Raises:
        ValueError: the folder holds no training metrics.
    """
    run = read_run(folder, folder.name)
    found = {f"accuracy/{name}": mean for name, mean in accuracy.items()}
    reward, skipped = run.series("rollout/reward_mean"), run.series("num_skipped_updates")
    values = {
        "batches": float(len(run.train)),
        "reward_mean": fmean(reward.finite) if reward and reward.finite else math.nan,
        "skipped_updates": sum(skipped.finite) if skipped else math.nan,
    }
    for name, logged in _OF_BATCHES.items():
        series = run.series(*logged)
        for end, place in zip(_ENDS, (0, -1), strict=True):
            values[f"{name}/{end}"] = series.values[place] if series else math.nan
    return found | {name: Mean(value, None) for name, value in values.items()}


def over_seeds(results: Sequence[Result]) -> list[Result]:
    """The mean of the cells that differ in their seeds alone, where there are several, with its
    standard error over them. Their `cell` has no seed."""
    groups: dict[Cell, list[Figures]] = {}
    for cell, found in results:
        if cell.seed is not None:
            groups.setdefault(replace(cell, seed=None), []).append(found)
    return [
        Result(cell, {name: _mean([each[name].mean for each in several]) for name in several[0]})
        for cell, several in groups.items()
        if len(several) > 1
    ]


def _mean(values: Sequence[float]) -> Mean:
    return Mean(fmean(values), stdev(values) / math.sqrt(len(values)))


def as_json(results: Sequence[Result], before: Mapping[str, Mean]) -> str:
    """All figures, those of single cells and their means over seeds.

    Args:
        results: the cells.
        before: accuracy of the model that all were started from, by benchmark.
    """
    content = {
        "start": _plain({f"accuracy/{name}": mean for name, mean in before.items()}),
        "cells": [{**asdict(r.cell), "name": r.cell.name, **_plain(r.figures)} for r in results],
        "over_seeds": [{**asdict(r.cell), **_plain(r.figures)} for r in over_seeds(results)],
    }
    return json.dumps(content, indent=1) + "\n"


def _plain(found: Figures) -> dict[str, dict[str, float | None]]:
    """JSON has no nan."""
    return {
        name: {
            key: v if v is not None and math.isfinite(v) else None
            for key, v in mean._asdict().items()
        }
        for name, mean in found.items()
    }


def as_text(results: Sequence[Result], before: Mapping[str, Mean]) -> str:
    """The table for a screen; see `as_json`. What no loss logs is left out."""
    start: Figures = {f"accuracy/{name}": mean for name, mean in before.items()}
    columns = {f"{name.removeprefix('accuracy/')} %": [name] for name in start}
    columns["reward"] = ["reward_mean"]
    columns |= {_TITLES.get(n, "grad norm"): [f"{n}/{end}" for end in _ENDS] for n in _OF_BATCHES}
    columns["skipped"] = ["skipped_updates"]
    lines = [("start", _NONE, _NONE, start)] if start else []
    for of, found in results:
        seed = _NONE if of.seed is None else str(of.seed)
        lines.append((of.loss, str(of.epochs), seed, found))
    lines += [(of.loss, str(of.epochs), "mean", found) for of, found in over_seeds(results)]
    rows = [["loss", "epochs", "seed", *columns]]
    for *names, found in lines:
        rows.append([*names, *(_shown(column, found) for column in columns.values())])
    shown = [column for column in zip(*rows, strict=True) if {*column[1:]} != {_NONE}]
    widths = [max(map(len, column)) for column in shown]
    return "\n".join(
        "  ".join(
            text.rjust(width) if place else text.ljust(width)
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in zip(*shown, strict=True)
    )


def _shown(names: Sequence[str], found: Figures) -> str:
    scale = 100 if names[0].startswith("accuracy/") else 1
    parts = [_short(found.get(name, Mean(math.nan, None)), scale) for name in names]
    return _NONE if set(parts) == {_NONE} else " -> ".join(parts)


def _short(value: Mean, scale: int) -> str:
    if not math.isfinite(value.mean):
        return _NONE
    text = f"{scale * value.mean:.3g}"
    if value.standard_error is None:
        return text
    return f"{text} ± {scale * value.standard_error:.2g}"
