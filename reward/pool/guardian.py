"""Runs the node's verifier, and lets nothing that it started outlive it.

``guardian.py SOCKET`` starts :mod:`.server` and ends when it does. A user's score may start
processes of its own: those whose parent has died, be it the score's worker or the whole server,
become children of this process and are killed. It imports nothing but the standard library.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_SWEEP_S = 0.2
_LAST_SWEEPS = 50


def _children() -> list[int]:
    pid = os.getpid()
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _kill_orphans(spared: int | None = None) -> bool:
    """Kill and bury all children but one; whether there were any."""
    orphans = [pid for pid in _children() if pid != spared]
    for pid in orphans:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, os.WNOHANG)
    return bool(orphans)


def main(path: str) -> int:
    """Serve until the server ends; its exit status."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    command = [sys.executable, "-m", "vespo_openrlhf.reward.pool.server", path]
    server = subprocess.Popen(command)
    signal.signal(signal.SIGTERM, lambda *_: server.terminate())
    while server.poll() is None:
        _kill_orphans(spared=server.pid)
        time.sleep(_SWEEP_S)
    for _ in range(_LAST_SWEEPS):  # each finds the children of those that the last one killed
        if not _kill_orphans():
            break
        time.sleep(0.02)
    return server.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
