"""A folder of results: every generation as one JSON line, safe against kills and full disks.

    OUT/manifest.json                   what was run: model, settings, benchmarks, versions
    OUT/<benchmark>/generations.jsonl   one line per generation, in the order they finished
    OUT/timings.jsonl                   seconds and tokens of each block that was written
    OUT/summary.json                    the metrics, once everything is there
    OUT/results.json                    the same as lm-evaluation-harness has it

What a line holds depends on nothing but the run's settings, so that resumed and uninterrupted runs
hold the same lines; that is why timings have a file of their own. An agent's environment may answer
otherwise each time, and its seconds stand in its turns. See `lines` for the writing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.eval.results.lines import Lines
from vespo_openrlhf.files import write_text
from vespo_openrlhf.redact import redact

MANIFEST = "manifest.json"
SUMMARY = "summary.json"
RESULTS = "results.json"
GENERATIONS = "generations.jsonl"
TIMINGS = "timings.jsonl"

# What is read of a record; the rest of it is for people.
_RECORD = ("id", "repeat", "prompt_hash", "prompt", "gold", "response", "correct")
_TEXTS = ("prompt", "response", "gold", "first_observation", "turns")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file so that it is there whole or not at all.

    Raises:
        EvaluationError: the disk does not take it; what stood there stays.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False)
    try:
        write_text(path, text + "\n")
    except OSError as error:
        raise EvaluationError(f"{path} cannot be written: {error.strerror}") from error


class Folder:
    """The results of one model under one set of settings. One process at a time holds it.

    Args:
        path: made where it is not there.
        look: only read what is there: nothing is made or held.

    Raises:
        ValueError: it is no folder, or another process holds it.
    """

    def __init__(self, path: Path, *, look: bool = False) -> None:
        self.path = path
        self._lock: IO[str] | None = None
        if look:
            return
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = open(path / ".lock", "w")  # noqa: SIM115 - held until it is closed
        except OSError as error:
            raise ValueError(f"--out {path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ValueError(f"another process is writing to {path}") from None

    def close(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._lock.close()

    def manifest(self) -> dict[str, Any] | None:
        """What was run here before.

        Raises:
            ValueError: the manifest is not JSON.
        """
        path = self.path / MANIFEST
        if not path.exists():
            return None
        try:
            loaded: dict[str, Any] = redact(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: start anew with --fresh ({error})") from error
        return loaded

    def begin(self, manifest: dict[str, Any], *, fresh: bool = False) -> None:
        """Take a run's manifest on, beside what is here.

        Raises:
            ValueError: what is here was made with other settings.
        """
        if fresh:
            self._clear()
        before = self.check(manifest)
        if before is not None:
            manifest["created"] = before["created"]
            manifest["benchmarks"] = {**before["benchmarks"], **manifest["benchmarks"]}
        elif self._has_records():
            raise ValueError(
                f"{self.path} holds records without a {MANIFEST}, so their settings are unknown: "
                "take another --out, or --fresh to delete them"
            )
        write_json(self.path / MANIFEST, manifest)

    def check(self, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
        """The manifest that is here, if records of the one given may join it.

        Raises:
            ValueError: what is here was made with other settings.
        """
        # Settings without records bind nobody: a run that could not start leaves them.
        before = self.manifest() if self._has_records() else None
        differences = [] if before is None else list(_differences(before, manifest))
        if differences:
            raise ValueError(
                f"{self.path} holds records of other settings: {'; '.join(differences)}. They "
                "must not mix: take another --out, or --fresh to delete them"
            )
        return before

    def generations(self, benchmark: str) -> Lines:
        """The records of a benchmark."""
        return Lines(self.path / benchmark / GENERATIONS, _RECORD)

    @property
    def timings(self) -> Lines:
        """The blocks that were written, and how long they took."""
        return Lines(self.path / TIMINGS)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write `summary.json`."""
        write_json(self.path / SUMMARY, summary)

    def _has_records(self) -> bool:
        return any(path.stat().st_size for path in self.path.glob(f"*/{GENERATIONS}"))

    def _clear(self) -> None:
        for path in self.path.glob(f"*/{GENERATIONS}"):
            path.unlink()
            with contextlib.suppress(OSError):
                path.parent.rmdir()
        for name in (MANIFEST, SUMMARY, TIMINGS, RESULTS):
            (self.path / name).unlink(missing_ok=True)


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    # A model is told apart by its revision where it has one: a folder may have been moved.
    name = "revision" if before.get("revision") and now.get("revision") else "model"
    if before.get(name) != now.get(name):
        yield f"{name} {before.get(name)} there, {now.get(name)} now"
    old, new = before["settings"], now["settings"]
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield f"{name} {old.get(name)!r} there, {new.get(name)!r} now"
    for benchmark, entry in now["benchmarks"].items():
        known = before["benchmarks"].get(benchmark)
        if known is None:
            continue
        # Older entries do not say all of these; one that names no tolerance has none.
        said = ("checksum", "template", "temperature", "also_greedy")
        for name in (*(name for name in said if name in known and name in entry), "tolerance"):
            if known.get(name) != entry.get(name):
                yield f"{benchmark}'s {name} {known.get(name)!r} there, {entry.get(name)!r} now"
                if name == "checksum" and known.get("revision") != entry.get("revision"):
                    yield (
                        f"its data on the hub was revision {known.get('revision')}, and is "
                        f"{entry.get('revision')} (a benchmark of your own can name a revision)"
                    )
        if known["repeats"] > entry["repeats"]:
            yield f"{benchmark} has {known['repeats']} repeats there, {entry['repeats']} now"


def slim(records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Records without their texts, of which a summary needs none, one at a time."""
    for record in records:
        yield {key: record[key] for key in record if key not in _TEXTS}
