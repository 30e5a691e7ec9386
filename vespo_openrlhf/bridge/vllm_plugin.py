"""vLLM's processes end with the engine actor that started them.

When a rollout actor is killed, its engine core and workers live on as orphans and keep their GPU's
memory, and the actor that Ray starts in its place finds none. So each of them watches its parent.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time

VARIABLE = "VESPO_EXIT_WITH_PARENT"
_LOOK_SECONDS = 1.0


def register() -> None:
    """Entry point `vllm.general_plugins`; vLLM calls it once in each of its processes."""
    if os.environ.get(VARIABLE) and multiprocessing.parent_process() is not None:
        threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)  # without clean-up: all of it would wait for the parent
