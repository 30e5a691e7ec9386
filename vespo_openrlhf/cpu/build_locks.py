"""Locks that a killed build has left behind.

DeepSpeed compiles its CPU optimizer on its first start, through torch's extension builder. That
builder waits for a lock file for as long as it exists; and where a run was killed in that first
half minute, it exists forever, and every later run hangs without a word.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

# Between taking the lock and starting the compiler the builder writes a few small files.
_SECONDS_TO_START = 60.0


def remove_stale(root: Path | None = None) -> list[Path]:
    """Remove the locks of builds that nobody is at work on.

    Args:
        root: torch's folder of extensions; None for the one it uses by default.

    Returns:
        The locks that were removed.
    """
    import psutil

    if root is None:
        from torch.utils.cpp_extension import get_default_build_root

        root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    at_work = set()
    for process in psutil.process_iter():
        try:
            at_work.add(process.cwd())
        except (psutil.Error, OSError):
            continue
    stale = [
        lock
        for pattern in ("*/lock", "*/*/lock")
        for lock in root.glob(pattern)
        if str(lock.parent.resolve()) not in at_work
        and time.time() - lock.stat().st_mtime > _SECONDS_TO_START
    ]
    for lock in stale:
        lock.unlink(missing_ok=True)
    return stale
