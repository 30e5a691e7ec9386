"""A run folder, read: its metrics by name, its settings, its samples."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vespo_openrlhf.redact import redact

METRICS_FILE = "metrics.jsonl"
#: What a line of `metrics.jsonl` says about itself.
_HEADER = {"step", "kind", "time"}


@dataclass(frozen=True)
class Series:
    """A metric over rollout batches. A value that was not finite, or not logged, is nan."""

    steps: Sequence[float]
    values: Sequence[float]

    @property
    def finite(self) -> list[float]:
        return [value for value in self.values if math.isfinite(value)]

    def ends(self) -> tuple[float, float]:
        """Mean over the first and over the last tenth of the batches, at least one; nan if none."""
        count = max(1, len(self.finite) // 10)
        return _mean(self.finite[:count]), _mean(self.finite[-count:])


@dataclass(frozen=True)
class Run:
    """What a training run left behind.

    Attributes:
        name: short, and unlike the others' on the page.
        folder: the run folder.
        train, evaluations: lines of `metrics.jsonl`, one per rollout batch, ascending.
        unreadable: lines that are no JSON object, as a kill may leave at the end.
        config: the resolved flags.
        versions: of the packages it ran on.
    """

    name: str
    folder: Path
    train: Sequence[dict[str, Any]]
    evaluations: Sequence[dict[str, Any]] = ()
    unreadable: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """Every numeric metric of the training lines, in the order of their appearance."""
        return _numeric(self.train)

    def evaluation_names(self) -> list[str]:
        """Every numeric metric of the evaluation lines."""
        return _numeric(self.evaluations)

    def find(self, *names: str) -> str | None:
        """The metric that is logged under the first of these names, or under a loss's prefix.

        Losses log under their own name, so `ess_ratio` finds `vespo/ess_ratio`.
        """
        logged = self.names
        for name in names:
            for candidate in logged:
                if candidate == name or candidate.partition("/")[2] == name:
                    return candidate
        return None

    def series(self, *names: str) -> Series | None:
        """The metric `find` finds, or None if this run has none of them."""
        name = self.find(*names)
        return None if name is None else _series(self.train, name)

    def logged(self, name: str) -> Series | None:
        """The metric of this very name, or None."""
        return _series(self.train, name) if name in self.names else None

    def evaluation(self, name: str) -> Series | None:
        """A metric of the evaluation lines; batches without it are left out."""
        lines = [line for line in self.evaluations if name in line]
        return _series(lines, name) if lines else None

    def histogram(self, pattern: str) -> dict[int, Series]:
        """bin -> share over batches, of keys that hold the bin as the pattern's one group.

        A batch that has other bins but not this one has nothing in it: 0, not nan.
        """
        bins = {}
        for name in self.names:
            if hit := re.fullmatch(pattern, name):
                bins[int(hit[1])] = name
        keys = set(bins.values())
        lines = [line for line in self.train if keys & line.keys()]
        steps = [line["step"] for line in lines]
        return {
            index: Series(steps, [_number(line.get(bins[index], 0.0)) for line in lines])
            for index in sorted(bins)
        }

    def by_lag(self, name: str) -> dict[tuple[int, int], float]:
        """(least, greatest lag) -> the metric's mean over the samples of that age.

        Metrics by lag are logged as `<loss>/lag_4_7/<name>`, with their `num_samples` beside them.
        """
        means = {}
        for key in self.names:
            hit = re.fullmatch(rf"((?:.+/)?lag_(\d+)(?:_(\d+))?)/{re.escape(name)}", key)
            if not hit:
                continue
            values = _series(self.train, key).values
            weights = _series(self.train, f"{hit[1]}/num_samples").values
            pairs = zip(values, weights, strict=True)
            known = [(v, w) for v, w in pairs if math.isfinite(v) and w > 0]
            total = sum(w for _, w in known)
            if total:
                ages = int(hit[2]), int(hit[3] or hit[2])
                means[ages] = sum(v * w for v, w in known) / total
        return means

    def samples(self, limit: int) -> list[tuple[int, str, float]]:
        """(batch, text, reward) of at most `limit` responses it logged, evenly over the run."""
        found = []
        for line in self.train:
            logged = line.get("generated_samples")
            if not isinstance(logged, list) or not logged:
                continue
            pairs = [logged] if isinstance(logged[0], str) else logged
            for pair in pairs:
                if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str):
                    found.append((int(line["step"]), pair[0], _number(pair[1])))
        if len(found) <= limit:
            return found
        return [found[i * (len(found) - 1) // (limit - 1)] for i in range(limit)]


def read_run(folder: Path, name: str) -> Run:
    """Read a run folder. A run that still goes on, or was killed, is read as far as it got.

    Raises:
        ValueError: it holds no training metrics.
    """
    path = folder / METRICS_FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} holds no {METRICS_FILE}: give the --run.dir of a training run"
            + ("" if folder.is_dir() else " (there is no such folder)")
        )
    lines, unreadable = _read_lines(path)
    train = _latest(line for line in lines if line.get("kind") == "train")
    if not train:
        raise ValueError(f"{path} holds no training line yet: wait for the first rollout batch")
    return Run(
        name=name,
        folder=folder,
        train=train,
        evaluations=_latest(line for line in lines if line.get("kind") == "eval"),
        unreadable=unreadable,
        config=_read_object(folder / "config.json"),
        versions=_read_object(folder / "versions.json"),
    )


def _series(lines: Sequence[dict[str, Any]], name: str) -> Series:
    return Series([line["step"] for line in lines], [_number(line.get(name)) for line in lines])


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    lines, unreadable = [], 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                line = None
            if isinstance(line, dict) and isinstance(line.get("step"), (int, float)):
                lines.append(line)
            elif text.strip():
                unreadable += 1
    return lines, unreadable


def _latest(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per step, the last that was written: a run that resumes repeats some."""
    by_step = {line["step"]: line for line in lines}
    return [by_step[step] for step in sorted(by_step)]


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}
    return redact(value) if isinstance(value, dict) else {}


def _numeric(lines: Sequence[dict[str, Any]]) -> list[str]:
    names = {
        name: None
        for line in lines
        for name, value in line.items()
        # null stands for a number that was not finite.
        if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
    }
    return [name for name in names if name not in _HEADER]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, (int, float)) else math.nan


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
