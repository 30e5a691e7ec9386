"""What runs inside a worker process: one comparison, or one call of a user's function."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from vespo_openrlhf import user_code
from vespo_openrlhf.reward.comparing import symbolic
from vespo_openrlhf.reward.comparing.expression import Expression, TooComplexError
from vespo_openrlhf.reward.comparing.judge import judge
from vespo_openrlhf.reward.comparing.limits import MAX_CHARS
from vespo_openrlhf.reward.comparing.structure import parse
from vespo_openrlhf.reward.pool import client
from vespo_openrlhf.reward.reading.extract import extract
from vespo_openrlhf.reward.reading.golds import usable_golds
from vespo_openrlhf.reward.reading.normalize import normalize
from vespo_openrlhf.reward.verdict import noting_unjudged

QUICK_CPU_S = 0.15
_KILL_AFTER_S = 0.1
_FILE_BYTES, _OPEN_FILES, _PROCESSES = 256 * 2**20, 1024, 1024
_PR_SET_PDEATHSIG = 1

symbolic.warm()


def start(memory_bytes: int, nice: int) -> None:
    """Initialise a worker: die at once on SIGTERM, never grow beyond the limits."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGVTALRM, _slow)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    os.setsid()  # what a score sends to its process group reaches no other worker
    os.nice(nice)  # whatever an answer makes it compute, training beside it goes first
    die_with_parent()
    open_files = _OPEN_FILES + _close_sockets()
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, _FILE_BYTES)
    _limit(resource.RLIMIT_NOFILE, open_files)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(20_000)
    sys.setrecursionlimit(3_000)


def _limit(limit: int, value: int, for_good: bool = True) -> None:
    hard = resource.getrlimit(limit)[1]
    soft = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (soft, soft if for_good else hard))


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends, however it does."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _close_sockets() -> int:
    """Do not keep the server's connections open beyond its life; the highest open file."""
    null = os.open(os.devnull, os.O_RDWR)
    names = os.listdir("/proc/self/fd")
    for name in names:
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.dup2(null, int(name))  # the number stays taken: an object may still own it
    os.close(null)
    return max(map(int, names))


class SlowError(BaseException):
    """The processor time of :func:`quickly` is used up; no `except Exception` may swallow it."""


def _slow(*_: object) -> None:
    raise SlowError


def quickly(operation: str, args: list[Any], seconds: float = QUICK_CPU_S) -> list[Any]:
    """[what an operation returns], or [] where it takes longer.

    What Python computes is interrupted, so that this process lives on. What C computes cannot be:
    a little later the kernel kills the process, by SIGPROF.

    Args:
        operation: one of :data:`OPERATIONS`.
        args: its arguments.
        seconds: of processor time, so that a loaded machine does not make answers slow.
    """
    try:
        signal.setitimer(signal.ITIMER_PROF, seconds + _KILL_AFTER_S)
        signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
        try:
            return [OPERATIONS[operation](*args)]
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.setitimer(signal.ITIMER_PROF, 0)
    except SlowError:
        return []


def compare(golds: list[str], answers: list[str]) -> str:
    """The reason of a verdict; memory that runs out counts as a timeout."""
    try:
        return judge(tuple(golds), tuple(answers), symbolic.algebra)
    except MemoryError:
        return "timeout"
    except Exception:
        # The limits of what sympy can be fed are not known; an answer it fails on is not read.
        return "unparsable"


def verify(
    golds: list[str], response: str, prompt: str, require_box: bool
) -> tuple[str, str | None]:
    """The reason and the answer of a response that is too long to be read in its caller."""
    usable = usable_golds(golds)
    if not usable:
        return "empty_gold", None
    found = extract(response, prompt=prompt, require_box=require_box)
    if not found.answers:
        return found.reason, None
    if sum(map(len, found.answers)) > MAX_CHARS:
        return "unparsable", ", ".join(found.answers)
    return compare(list(usable), list(found.answers)), ", ".join(found.answers)


def unreadable(label: str) -> bool:
    """Whether a gold has a part that does not parse, so that only the same text matches it."""

    def scalars(node: Expression) -> list[str]:
        inner = [text for item in node.items for text in scalars(item)]
        return inner or ([node.text] if node.kind == "scalar" else [])

    try:
        return not all(symbolic.readable_scalar(s) for s in scalars(parse(normalize(label))))
    except (TooComplexError, RecursionError, ValueError, MemoryError):
        return True


@lru_cache(maxsize=16)
def _load(path: str, name: str, modified: float) -> Any:
    directory = os.path.dirname(path)
    if directory not in sys.path:
        sys.path.append(directory)
    return user_code.load(f"{path}:{name}", "reward")


def _limit_call(seconds: float) -> None:
    """Soft limits of one call, and of each process that it leaves running.

    Processor time is what all cores together have in that time. Processes are counted over all of
    the user's, training's included, so the limit goes with how many there are; root has none.
    """
    used = resource.getrusage(resource.RUSAGE_SELF)
    cores = len(os.sched_getaffinity(0))
    tasks = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    processor = used.ru_utime + used.ru_stime + seconds * cores
    _limit(resource.RLIMIT_CPU, int(processor) + 2, for_good=False)
    _limit(resource.RLIMIT_NPROC, tasks + _PROCESSES, for_good=False)


def score(
    seconds: float, path: str, name: str, response: str, label: Any, prompt: str
) -> dict[str, Any]:
    """Call a user's ``score(response, label, prompt)``, which may run for so many seconds.

    Returns:
        ``result``, a float or a dict of floats; or ``error``, a text, where the call raised or
        returned something else; or ``unjudged``, the reason, where it asked the verifier and that
        could not judge.
    """
    _limit_call(seconds)
    with noting_unjudged() as unjudged, client.used_for(0.9 * seconds):
        try:
            function = _load(path, name, os.path.getmtime(path))
            result = function(response, label, prompt)
            done: dict[str, Any]
            if isinstance(result, dict):
                done = {"result": {str(key): float(value) for key, value in result.items()}}
            else:
                done = {"result": float(result)}
        except (Exception, SystemExit) as error:
            done = {"error": f"{type(error).__name__}: {error}"[:500]}
    return {"unjudged": unjudged[0]} if unjudged else done


OPERATIONS: dict[str, Callable[..., Any]] = {
    "compare": compare, "verify": verify, "unreadable": unreadable, "score": score,
}  # fmt: skip
