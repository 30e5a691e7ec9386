"""Processes that `multiprocessing` starts, for us or for vLLM."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

_LOOK_SECONDS = 1.0


def end_with_parent() -> None:
    """In a worker: end within a second of the process that started it, killed or not.

    A worker of `concurrent.futures` would wait for its next task for ever, with all its memory, a
    GPU's too: it holds both ends of the queue, so that nothing tells it that nobody writes there.
    The parent's sentinel would not do where workers are forked: later ones hold its other end.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        while os.getppid() == parent.pid:
            time.sleep(_LOOK_SECONDS)
        os._exit(1)  # without clean-up: all of it would wait for the parent

    threading.Thread(target=follow, daemon=True).start()
