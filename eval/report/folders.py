"""What `vespo eval run` left in a folder, read without holding its responses in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vespo_openrlhf.eval.results.folder import GENERATIONS, MANIFEST, SUMMARY
from vespo_openrlhf.pages import distinct_names
from vespo_openrlhf.redact import redact


@dataclass(frozen=True)
class Generation:
    """A record without its text.

    Attributes:
        offset: bytes into the file at which its line begins.
        id, repeat: which one it is.
        correct, reason: the verdict.
        tokens: its length, None where the engine did not tell.
        cut: whether it ran into the longest length allowed.
    """

    offset: int
    id: str
    repeat: int
    correct: bool
    reason: str
    tokens: int | None
    cut: bool


@dataclass(frozen=True)
class Evaluation:
    """One model under one set of settings.

    Attributes:
        name: short, and unlike the others' on the page.
        folder: where it lies.
        manifest: the model, its settings, the benchmarks' data, versions.
        summary: per benchmark the metrics, as `eval.metrics.summarise` gives them.
        average: of the benchmarks' accuracies.
        unfinished: benchmarks of the manifest that the summary lacks.
    """

    name: str
    folder: Path
    manifest: dict[str, Any]
    summary: dict[str, dict[str, Any]]
    average: float | None
    unfinished: Sequence[str]

    def generations(self, benchmark: str) -> list[Generation]:
        """Every record of a benchmark, by problem and repeat; none where the file is gone."""
        from tqdm import tqdm

        path = self._path(benchmark)
        if not path.is_file():
            return []
        found = []
        bar = tqdm(
            total=path.stat().st_size,
            desc=f"reading {self.name} {benchmark}",
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None,
        )
        with bar, open(path, "rb") as file:
            offset = 0
            for line in file:
                record = _record(line)
                if record is not None:
                    found.append(
                        Generation(
                            offset=offset,
                            id=str(record["id"]),
                            repeat=int(record["repeat"]),
                            correct=bool(record["correct"]),
                            reason=str(record.get("reason") or ""),
                            tokens=record.get("tokens"),
                            cut=record.get("finish_reason") == "length",
                        )
                    )
                offset += len(line)
                bar.update(len(line))
        return sorted(found, key=lambda generation: (generation.id, generation.repeat))

    def records(self, benchmark: str, chosen: Sequence[Generation]) -> Iterator[dict[str, Any]]:
        """The whole records of these generations, in their order."""
        if not chosen:  # there need not be a file then
            return
        with open(self._path(benchmark), "rb") as file:
            for generation in chosen:
                file.seek(generation.offset)
                yield json.loads(file.readline())

    def _path(self, benchmark: str) -> Path:
        return self.folder / benchmark / GENERATIONS


def _record(line: bytes) -> dict[str, Any] | None:
    """The record, or None for a line that a kill tore."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "id" in record else None


def read_folders(folders: Sequence[Path]) -> list[Evaluation]:
    """Read them, under names that tell them apart.

    Raises:
        ValueError: a folder holds no finished evaluation, or is given twice.
    """
    return [_read(f, name) for f, name in zip(folders, distinct_names(folders), strict=True)]


def _read(folder: Path, name: str) -> Evaluation:
    manifest, summary = (_object(folder / file) for file in (MANIFEST, SUMMARY))
    benchmarks = summary.get("benchmarks")
    if not isinstance(benchmarks, dict) or not benchmarks:
        raise ValueError(
            f"{folder / SUMMARY} holds no benchmarks: it was not written by `vespo eval run`"
        )
    return Evaluation(
        name=name,
        folder=folder,
        manifest=manifest,
        summary=benchmarks,
        average=summary.get("average"),
        unfinished=[b for b in manifest.get("benchmarks", {}) if b not in benchmarks],
    )


def _object(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: give the --out of an evaluation; one that was interrupted is "
            "finished by running its command again"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a JSON object")
    hidden: dict[str, Any] = redact(content)
    return hidden


def benchmarks_of(evaluations: Sequence[Evaluation]) -> list[str]:
    """Every benchmark that one of them finished, in the order of their appearance."""
    return list(dict.fromkeys(name for e in evaluations for name in e.summary))
