"""A run folder, read: its metrics by name, its settings, its samples."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vespo_openrlhf.redact import redact

METRICS_FILE = "metrics.jsonl"
UPDATES_FILE = "updates.jsonl"
#: What a line of either says about itself.
_HEADER = {"step", "kind", "time", "update", "mini_batch"}
#: What lines can be drawn over: the field, and what it is called.
_AXES = {"step": "rollout batch", "update": "optimizer updates made"}


@dataclass(frozen=True)
class Series:
    """A metric over rollout batches, or over updates. A value that was not finite, or not logged,
    is nan."""

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
        updates: lines of `updates.jsonl`, one per optimizer update, ascending.
        over: what series run over: "step", the rollout batch, or "update".
        unreadable: lines that are no JSON object, as a kill may leave at the end.
        config: the resolved flags.
        versions: of the packages it ran on.
    """

    name: str
    folder: Path
    train: Sequence[dict[str, Any]]
    evaluations: Sequence[dict[str, Any]] = ()
    updates: Sequence[dict[str, Any]] = ()
    over: str = "step"
    unreadable: int = 0
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def names(self) -> list[str]:
        """Every numeric metric of the training lines, in the order of their appearance."""
        return _numeric(self.train)

    @property
    def axis(self) -> str:
        """What its series run over, in words."""
        return _AXES[self.over]

    @property
    def knows_its_updates(self) -> bool:
        """Whether every rollout batch has its updates: a run of an older version has none."""
        return {line["step"] for line in self.train} <= {line["step"] for line in self.updates}

    def over_updates(self) -> Run:
        """The run with its series over updates: in every one what is measured there, and what is
        measured once a batch at the batch's first. An evaluation is of the updates made so far.
        """
        assert self.knows_its_updates
        first: dict[float, float] = {}
        for line in self.updates:
            first.setdefault(line["step"], line["update"])
        return replace(
            self,
            over="update",
            train=[line | {"update": first[line["step"]]} for line in self.train],
            evaluations=self._placed(self.evaluations),
        )

    def evaluation_names(self) -> list[str]:
        """Every numeric metric of the evaluation lines."""
        return _numeric(self.evaluations)

    def find(self, *names: str) -> str | None:
        """The metric that is logged under the first of these names, or under a loss's prefix.

        Losses log under their own name, so `ess_ratio` finds `vespo/ess_ratio`.
        """
        return _find(self.names, names)

    def series(self, *names: str) -> Series | None:
        """The metric of the first of these names, or None if this run has none of them.

        Over updates it is that of every update, where there is one.
        """
        if self.over == "update" and (name := _find(self._update_names, names)):
            return self._series(self.updates, name)
        name = self.find(*names)
        return None if name is None else self._series(self.train, name)

    @cached_property
    def _update_names(self) -> list[str]:
        return _numeric(self.updates)

    def logged(self, name: str) -> Series | None:
        """The metric of this very name by rollout batch, or None."""
        return self._series(self.train, name) if name in self.names else None

    def accuracy(self) -> dict[str, Series]:
        """avg@k by benchmark, from every RUN/FOLDER/step_N/summary.json: of evaluation in training
        and of `vespo eval watch --out RUN/FOLDER`. A benchmark that two folders have is named by
        the second with the folder. Without any, pass@1 of the evaluation lines, which is the same.
        """
        found: dict[str, dict[int, float]] = {}
        for path in sorted(self.folder.glob("*/step_*/summary.json")):
            step = path.parent.name.removeprefix("step_")
            benchmarks = _read_object(path).get("benchmarks")
            if step.isdecimal() and isinstance(benchmarks, dict):
                folder = path.parent.parent.name
                for name, numbers in benchmarks.items():
                    found.setdefault(f"{folder}/{name}", {})[int(step)] = numbers["avg@k"]
        curves: dict[str, Series] = {}
        for key, values in found.items():
            folder, _, name = key.partition("/")
            lines = [{"step": step, name: values[step]} for step in sorted(values)]
            title = f"{name} ({folder})" if name in curves else name
            curves[title] = self._series(self._placed(lines), name)
        if not curves:
            for name in self.evaluation_names():
                if hit := re.fullmatch(r"eval_(.+)_pass1", name):
                    lines = [line for line in self.evaluations if name in line]
                    curves[hit[1]] = self._series(lines, name)
        return curves

    def _placed(self, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Lines of evaluations with the updates that the policy had made."""

        def made(step: float) -> float:
            return 1 + max((u["update"] for u in self.updates if u["step"] <= step), default=-1)

        return [line | {"update": made(line["step"])} for line in lines]

    def evaluation(self, name: str) -> Series | None:
        """A metric of the evaluation lines; batches without it are left out."""
        lines = [line for line in self.evaluations if name in line]
        return self._series(lines, name) if lines else None

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
        steps = [line[self.over] for line in lines]
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
            values = self._series(self.train, key).values
            weights = self._series(self.train, f"{hit[1]}/num_samples").values
            pairs = zip(values, weights, strict=True)
            known = [(v, w) for v, w in pairs if math.isfinite(v) and w > 0]
            total = sum(w for _, w in known)
            if total:
                ages = int(hit[2]), int(hit[3] or hit[2])
                means[ages] = sum(v * w for v, w in known) / total
        return means

    def _series(self, lines: Sequence[dict[str, Any]], name: str) -> Series:
        values = [_number(line.get(name)) for line in lines]
        return Series([line[self.over] for line in lines], values)

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
    updates: list[dict[str, Any]] = []
    torn = 0
    if (folder / UPDATES_FILE).is_file():
        updates, torn = _read_lines(folder / UPDATES_FILE)
    train = _latest(line for line in lines if line.get("kind") == "train")
    if not train:
        raise ValueError(f"{path} holds no training line yet: wait for the first rollout batch")
    return Run(
        name=name,
        folder=folder,
        train=train,
        evaluations=_latest(line for line in lines if line.get("kind") == "eval"),
        updates=_latest((line for line in updates if "update" in line), "update"),
        unreadable=unreadable + torn,
        config=_read_object(folder / "config.json"),
        versions=_read_object(folder / "versions.json"),
    )


def _find(logged: Sequence[str], names: Sequence[str]) -> str | None:
    for name in names:
        for candidate in logged:
            if candidate == name or candidate.partition("/")[2] == name:
                return candidate
    return None


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


def _latest(lines: Iterable[dict[str, Any]], key: str = "step") -> list[dict[str, Any]]:
    """One line per step, the last that was written: a run that resumes repeats some."""
    by_key = {line[key]: line for line in lines}
    return [by_key[value] for value in sorted(by_key)]


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
