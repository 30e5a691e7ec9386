"""What runs inside a worker process: one comparison, or one call of a user's function."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import resource
import signal
import stat
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from vespo_openrlhf.reward import symbolic
from vespo_openrlhf.reward.extract import extract
from vespo_openrlhf.reward.golds import usable_golds
from vespo_openrlhf.reward.judge import MAX_CHARS, judge
from vespo_openrlhf.reward.node import Node, TooComplexError
from vespo_openrlhf.reward.normalize import normalize
from vespo_openrlhf.reward.structure import parse
from vespo_openrlhf.reward.verdict import noting_unjudged

QUICK_CPU_S = 0.15  # of processor time, so that a loaded machine does not make answers slow
_PR_SET_PDEATHSIG = 1

symbolic.warm()


def start(memory_bytes: int, nice: int) -> None:
    """Initialise a worker: die at once on SIGTERM, never grow beyond the address-space limit."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGVTALRM, _slow)
    os.nice(nice)  # whatever an answer makes it compute, training beside it goes first
    _leave_server()
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(20_000)
    sys.setrecursionlimit(3_000)


def _leave_server() -> None:
    """Die with the server, and do not keep its connections open beyond its life."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    null = os.open(os.devnull, os.O_RDWR)
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.dup2(null, int(name))  # the number stays taken: an object may still own it
    os.close(null)


class SlowError(BaseException):
    """The processor time of :func:`quickly` is used up; no `except Exception` may swallow it."""


def _slow(*_: object) -> None:
    raise SlowError


def quickly(operation: str, args: list[Any]) -> list[Any]:
    """[what an operation returns], or [] where it would take long.

    What Python computes is interrupted, so that this process lives on: to kill it would hold up
    its neighbours. What C computes is not, and ends at the pool's own limit.
    """
    try:
        signal.setitimer(signal.ITIMER_VIRTUAL, QUICK_CPU_S)
        try:
            return [OPERATIONS[operation](*args)]
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
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

    def scalars(node: Node) -> list[str]:
        inner = [text for item in node.items for text in scalars(item)]
        return inner or ([node.text] if node.kind == "scalar" else [])

    try:
        return not all(symbolic.readable_scalar(s) for s in scalars(parse(normalize(label))))
    except (TooComplexError, RecursionError, ValueError, MemoryError):
        return True


@lru_cache(maxsize=16)
def _load(path: str, name: str, modified: float) -> Any:
    spec = importlib.util.spec_from_file_location(f"reward_custom_{abs(hash(path))}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    directory = os.path.dirname(path)
    if directory not in sys.path:
        sys.path.append(directory)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


def score(path: str, name: str, response: str, label: Any, prompt: str) -> dict[str, Any]:
    """Call a user's ``score(response, label, prompt)``.

    Returns:
        ``result``, a float or a dict of floats; or ``error``, a text, where the call raised or
        returned something else; or ``unjudged``, the reason, where it asked the verifier and that
        could not judge.
    """
    with noting_unjudged() as unjudged:
        try:
            function = _load(path, name, os.path.getmtime(path))
            result = function(response, label, prompt)
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
