"""Records on their way to the disk, and how fast they came."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vespo_openrlhf.eval.results.folder import Folder
from vespo_openrlhf.eval.results.lines import Lines

_BLOCK = 64
_BLOCK_S = 0.5


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
