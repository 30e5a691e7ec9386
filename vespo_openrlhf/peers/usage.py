"""The memory and the CPU time of a process and all it starts. Linux only."""

from __future__ import annotations

import contextlib
import threading
import time

import psutil

EVERY_S = 1.0
#: Looks between two at the memory: reading that of a loop's twenty processes costs 0.15 CPU
#: seconds, which the loop would miss, and a loop of one process would not.
MEMORY_EVERY = 5


class Watch:
    """A context manager that watches a process and its descendants while it runs.

    Memory is the proportional set size, in which a page that n processes share is counted 1/n to
    each: Ray's object store, and libraries that ten workers have mapped, are there once.

    Args:
        pid: of the process.

    Attributes:
        peak_bytes: the most memory they took together.
        cpu: (seconds since the epoch, CPU seconds that all have used until then), in order.
    """

    def __init__(self, pid: int) -> None:
        self._root = psutil.Process(pid)
        self._tree = {pid: self._root}
        self._used: dict[int, float] = {}  # by those that have ended, too
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak_bytes = 0
        self.cpu: list[tuple[float, float]] = []

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        looks = 0
        while not self._ended.wait(EVERY_S):
            self._look(memory=looks % MEMORY_EVERY == 0)
            looks += 1

    def _look(self, *, memory: bool) -> None:
        with contextlib.suppress(psutil.Error):
            for child in self._root.children(recursive=True):
                self._tree.setdefault(child.pid, child)
        taken = 0
        # Those seen once stay: a process whose parent has ended is nobody's descendant.
        for pid, process in list(self._tree.items()):
            try:
                times = process.cpu_times()
                self._used[pid] = times.user + times.system
                taken += process.memory_full_info().pss if memory else 0
            except psutil.NoSuchProcess:
                del self._tree[pid]
            except psutil.Error:
                pass
        self.peak_bytes = max(self.peak_bytes, taken)
        self.cpu.append((time.time(), sum(self._used.values())))
