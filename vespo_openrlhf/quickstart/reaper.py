"""Ends every process that carries a mark, once whoever started this one is gone.

`python -m vespo_openrlhf.quickstart.reaper MARK FOLDER` waits for the end of its standard input,
which comes when its parent closes the pipe, or dies in whatever way; then it ends the marked
processes, gently first, and removes the folder. Ray cannot be left to do that itself: a second
signal while it shuts down makes it hang.
"""

from __future__ import annotations

import contextlib
import shutil
import sys

import psutil

#: Every process of a cluster inherits this variable, so ours are told from anybody else's.
VARIABLE = "VESPO_LOCAL_CLUSTER"
_GRACE_S = 10.0


def marked(mark: str, variable: str = VARIABLE) -> list[psutil.Process]:
    """The living processes whose environment carries `mark` in `variable`."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(variable) == mark:
                found.append(process)
    return found


def end(mark: str) -> None:
    """Terminate every marked process, and kill what is left after a grace."""
    for how in (psutil.Process.terminate, psutil.Process.kill):
        processes = marked(mark)
        for process in processes:
            with contextlib.suppress(psutil.Error):
                how(process)
        psutil.wait_procs(processes, timeout=_GRACE_S)


if __name__ == "__main__":
    sys.stdin.read()
    end(sys.argv[1])
    shutil.rmtree(sys.argv[2], ignore_errors=True)
