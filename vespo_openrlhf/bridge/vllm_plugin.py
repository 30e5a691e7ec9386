"""vLLM's processes end with the engine actor that started them.

When a rollout actor is killed, its engine core and workers live on as orphans and keep their GPU's
memory, and the actor that Ray starts in its place finds none. So each of them watches its parent.
"""

from __future__ import annotations

import multiprocessing
import os

from vespo_openrlhf.workers import end_with_parent

VARIABLE = "VESPO_EXIT_WITH_PARENT"


def register() -> None:
    """Entry point `vllm.general_plugins`; vLLM calls it once in each of its processes."""
    if os.environ.get(VARIABLE) and multiprocessing.parent_process() is not None:
        end_with_parent()
