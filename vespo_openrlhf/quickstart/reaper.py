"""Ends every process that carries a mark, once whoever started this one is gone.

`python -m vespo_openrlhf.quickstart.reaper MARK FOLDER` waits for the end of its standard input,
which comes when its parent closes the pipe, or dies in whatever way; then it ends the marked
processes, gently first unless it has read `AT_ONCE`, and removes the folder. Ray cannot be left to
do that itself: a second signal while it shuts down makes it hang, and its agents outlive it by a
minute.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time

import psutil

#: Every process of a cluster inherits this variable, so ours are told from anybody else's.
VARIABLE = "VESPO_LOCAL_CLUSTER"
AT_ONCE = b"at once"
_GRACE_S = 10.0


def marked(mark: str, variable: str = VARIABLE) -> list[psutil.Process]:
    """The living processes whose environment carries `mark` in `variable`, and those whose session
    such a process leads: a process that gives itself a title, as Ray's do, may lose its
    environment by it."""
    marked, leaders, others = [], set(), []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            session = os.getsid(process.pid)
            if process.environ().get(variable) != mark:
                others.append((process, session))
                continue
            marked.append(process)
            if session == process.pid:
                leaders.add(session)
    return marked + [process for process, session in others if session in leaders]


def end(mark: str, *, gently: bool = True) -> None:
    """Terminate every marked process, and kill what is left after a grace; or kill at once."""
    left = marked(mark)
    for how in (psutil.Process.terminate if gently else psutil.Process.kill, psutil.Process.kill):
        for process in left:
            with contextlib.suppress(psutil.Error):
                how(process)
        left = _outliving(left)
        # What came meanwhile; of the others, whose leader may be gone, what was known before.
        left += [process for process in marked(mark) if process not in left]


def _outliving(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Those that still live after the grace. A zombie does not: whoever started it is yet to ask
    after it, and may be waiting for us."""
    deadline = time.monotonic() + _GRACE_S
    while True:
        processes = [process for process in processes if _lives(process)]
        if not processes or time.monotonic() > deadline:
            return processes
        time.sleep(0.1)


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def clean_up(mark: str, folder: str, *, gently: bool) -> None:
    """All that the reaper is there for."""
    end(mark, gently=gently)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    word = sys.stdin.buffer.read()
    clean_up(*sys.argv[1:], gently=word != AT_ONCE)
