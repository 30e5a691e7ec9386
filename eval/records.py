"""A folder of results: every generation as one JSON line, safe against kills and full disks.

    OUT/manifest.json                   what was run: model, settings, benchmarks, versions
    OUT/<benchmark>/generations.jsonl   one line per generation, in the order they finished
    OUT/timings.jsonl                   seconds and tokens of each block that was written
    OUT/summary.json                    the metrics, once everything is there
    OUT/results.json                    the same as lm-evaluation-harness has it

Lines are appended in blocks, each on disk before the next. A line that a kill tore is passed over
when reading, and cut off before the next is written. What a line holds depends on nothing but the
run's settings, so that resumed and uninterrupted runs hold the same lines; that is why timings
have a file of their own.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.files import write_text
from vespo_openrlhf.redact import redact

MANIFEST = "manifest.json"
SUMMARY = "summary.json"
RESULTS = "results.json"
GENERATIONS = "generations.jsonl"
TIMINGS = "timings.jsonl"

# What is read of a record; the rest of it is for people.
_RECORD = ("id", "repeat", "prompt_hash", "prompt", "gold", "response", "correct")
_BLOCK = 64
_BLOCK_S = 0.5


class Lines:
    """A file of JSON objects, one a line, that is only ever appended to in whole lines.

    Args:
        path: of the file; it need not be there.
        keys: what every object must have.
    """

    def __init__(self, path: Path, keys: Sequence[str] = ()) -> None:
        self.path = path
        self._keys = keys

    def read(self) -> Iterator[dict[str, Any]]:
        """The lines, from the first, one in memory at a time; the file is not touched.

        A last line without its end, as a kill leaves it, is passed over.

        Raises:
            ValueError: another line that is no JSON object, or lacks one of the keys.
        """
        if not self.path.exists():
            return
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                if line.endswith(b"\n"):
                    yield self._parse(line, number)

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        problem = ""
        try:
            row = json.loads(line)
        except ValueError as error:
            problem = f"is not JSON ({error})"
        else:
            if not isinstance(row, dict):
                problem = "is no JSON object"
            elif lacking := [key for key in self._keys if key not in row]:
                problem = f"lacks {', '.join(lacking)}"
        if problem:
            raise ValueError(
                f"{self.path}, line {number}, {problem}: mend or remove the line, or start anew "
                "with --fresh"
            )
        return row

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows and wait until they are on disk.

        Raises:
            EvaluationError: the disk does not take them; the file ends where it did before.
        """
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        # Half a surrogate pair, which a model can emit, cannot be encoded; this makes it \ud83d,
        # which is JSON's own way to write it.
        block = text.encode(errors="backslashreplace")
        before: int | None = None
        try:
            before = self._cut_torn()
            self.path.parent.mkdir(exist_ok=True)
            with open(self.path, "ab") as file:
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if before is not None:
                with contextlib.suppress(OSError):
                    os.truncate(self.path, before)
            raise EvaluationError(f"{self.path} cannot be written: {error.strerror}") from error

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Put other rows in the place of all of them, at once; a block in memory at a time.

        Raises:
            EvaluationError: the disk does not take them; the old rows stay.
        """
        draft = Lines(self.path.with_name(f".{self.path.name}.tmp"))
        try:
            draft.path.unlink(missing_ok=True)
            draft.append([])  # also where there are no rows
            rest = iter(rows)
            while block := list(itertools.islice(rest, _BLOCK)):
                draft.append(block)
            draft.path.replace(self.path)
        finally:
            draft.path.unlink(missing_ok=True)

    def _cut_torn(self) -> int:
        """Cut off a last line without its end; the size of the file then."""
        if not self.path.exists():
            return 0
        with open(self.path, "rb+") as file:
            size = end = file.seek(0, os.SEEK_END)
            while end > 0:
                start = max(0, end - 65536)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    end = start + newline + 1
                    break
                end = start
            if end < size:
                file.truncate(end)
        return end


def slim(records: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Records without their texts, of which a summary needs none, one at a time."""
    for record in records:
        yield {key: record[key] for key in record if key not in ("prompt", "response", "gold")}


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


class Recorder:
    """Writes records in blocks, from a thread of its own, so that nobody waits for the disk.

    Use as a context manager; leaving it writes what is left. `error` is what stopped the writing.

    Args:
        folder: of the records.
        finish: turns a block of what is put in here into records.
    """

    def __init__(
        self, folder: Folder, finish: Callable[[list[Any]], Sequence[Mapping[str, Any]]] = list
    ) -> None:
        self._folder = folder
        self._finish = finish
        self._files: dict[str, Lines] = {}
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.error: Exception | None = None

    def __enter__(self) -> Recorder:
        self._last = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._queue.put(None)
        self._thread.join()
        if self.error is not None and exception[0] is None:
            raise self.error

    def put(self, item: Any) -> None:
        """Hand over what becomes a record."""
        self._queue.put(item)

    def _run(self) -> None:
        block: list[Any] = []
        since = time.monotonic()
        while True:
            try:
                item = self._queue.get(timeout=_BLOCK_S)
                if item is not None:
                    block.append(item)
                ended = item is None
            except queue.Empty:
                ended = False
            due = time.monotonic() - since >= _BLOCK_S or len(block) >= _BLOCK
            if block and (due or ended) and self.error is None:
                try:
                    self._write(self._finish(block))
                except Exception as error:  # raised where the generation waits for it
                    self.error = error
                block = []
                since = time.monotonic()
            if ended:
                return

    def _write(self, block: Sequence[Mapping[str, Any]]) -> None:
        by_benchmark: dict[str, list[Mapping[str, Any]]] = {}
        for record in block:
            by_benchmark.setdefault(record["benchmark"], []).append(record)
        for name, records in by_benchmark.items():
            if name not in self._files:
                self._files[name] = self._folder.generations(name)
            self._files[name].append(records)
        now = time.monotonic()
        tokens = {n: sum(r["tokens"] or 0 for r in rs) for n, rs in by_benchmark.items()}
        self._folder.timings.append([{"seconds": round(now - self._last, 3), "tokens": tokens}])
        self._last = now


def rates(timings: Lines) -> dict[str, float]:
    """Tokens per second by benchmark: the run's rate while responses to it were coming in."""
    tokens: dict[str, int] = {}
    seconds: dict[str, float] = {}
    for line in timings.read():
        total = sum(line["tokens"].values())
        for name, count in line["tokens"].items():
            if total:
                tokens[name] = tokens.get(name, 0) + count
                seconds[name] = seconds.get(name, 0.0) + line["seconds"] * count / total
    return {name: tokens[name] / seconds[name] for name in tokens if seconds[name] > 0}
