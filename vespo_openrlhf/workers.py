"""Processes that `multiprocessing` starts for us."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading


def end_with_parent() -> None:
    """In a worker: end at once when the process that started it has ended, killed or not.

    A worker of `concurrent.futures` would wait for its next task for ever, with all its memory, a
    GPU's too: it holds both ends of the queue, so that nothing tells it that nobody writes there.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
