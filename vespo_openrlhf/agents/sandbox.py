"""Runs Python that a model wrote, in a process of its own that is closed off and killed at limits.

The process is one thread that cannot start another, nor a program, nor open a socket, and that
reads nothing but Python's own installation and its folder (see `confine.py`). Whatever it does,
time, output and folder are watched from outside.

The reward's pool is not used: its workers hold a user's rights and are used again, and no process
in which such code has run is to be used again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import selectors
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeAlias

from vespo_openrlhf.agents import confine

logger = logging.getLogger(__name__)

Status: TypeAlias = Literal["ok", "error", "timeout", "memory", "output", "disk", "cancelled"]

_MB = 2**20
_LOOK_S = 0.05
_MAX_FILES = 1000
_CODE_BYTES = 2**20
# More at once than there are cores: most that reach their limit sleep, and whoever waits behind
# them is taken for a slow environment. Threads of a pool live on: a child dies with its thread.
_AT_ONCE = max(8, 4 * len(os.sched_getaffinity(0)))
_threads = ThreadPoolExecutor(_AT_ONCE, "sandbox")


@dataclass(frozen=True)
class Limits:
    """What one call may use.

    Attributes:
        seconds: of wall clock from its start, and of processor time, rounded up.
        memory_mb: of address space; what a bare interpreter takes is some 30.
        output_bytes: of stdout and stderr together.
        folder_mb: of all files in its folder. There are at most 1000, and they cannot be removed.
        unprotected: run on a machine without Landlock or seccomp too, where code can read and write
            files, use the network and start processes as the user may.

    Raises:
        ValueError: a limit that is none.
    """

    seconds: float = 10.0
    memory_mb: int = 512
    output_bytes: int = 10_000
    folder_mb: int = 16
    unprotected: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= 3600:
            raise ValueError(f"seconds: expected more than 0, up to 3600, not {self.seconds}")
        if self.memory_mb < 64:
            raise ValueError(f"memory_mb: expected 64 or more, not {self.memory_mb}")
        if self.output_bytes < 1 or self.folder_mb < 1:
            raise ValueError("output_bytes and folder_mb: expected 1 or more")


@dataclass(frozen=True)
class ToolResult:
    """What came of a call.

    Attributes:
        output: stdout and stderr in the order of writing, up to the limit.
        status: "ok"; "error" (it raised, or left with another status than 0); or the limit at
            which it was killed: "timeout", "memory", "output", "disk".
        seconds: wall clock from its start.
    """

    output: str
    status: Status
    seconds: float


async def run(code: str, limits: Limits | None = None) -> ToolResult:
    """Run code and wait for its end; when cancelled, it is killed.

    Waiting for a place, of which there are four a core, counts against no limit.

    Raises:
        RuntimeError: the machine cannot close a process off, or the process did not start.
    """
    limits = limits or Limits()
    protected = _protected(limits.unprotected)
    stop = threading.Event()
    try:
        return await asyncio.get_running_loop().run_in_executor(
            _threads, _run, code, limits, protected, stop
        )
    finally:
        stop.set()


@functools.cache
def _protected(unprotected_too: bool) -> bool:
    """Whether code can be closed off here; a warning, once, where it is run although not."""
    lacks = confine.missing()
    if lacks and not unprotected_too:
        raise RuntimeError(
            f"code of a model is not run on this machine: {lacks}. `Limits(unprotected=True)` runs "
            "it all the same, with your user's rights"
        )
    if lacks:
        logger.warning("code of a model is run with this user's rights: %s", lacks)
    return not lacks


@functools.cache
def _paths() -> list[str]:
    """Where packages are looked for; "--"; what may be read besides a call's own folder."""
    own = sysconfig.get_paths()
    packages = sorted({own["purelib"], own["platlib"]})
    library = sorted({os.path.realpath(own["stdlib"]), os.path.realpath(own["platstdlib"])})
    shared = [sysconfig.get_config_var("LIBDIR") or ""]
    system = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/dev/null"]
    zones = ["/usr/share/zoneinfo", "/dev/urandom"]
    return [*packages, "--", *packages, *library, *filter(None, shared), *system, *zones]


def _run(code: str, limits: Limits, protected: bool, stop: threading.Event) -> ToolResult:
    folder = os.path.realpath(tempfile.mkdtemp(prefix="tool-"))
    try:
        return _watch(folder, code.encode(errors="replace"), limits, protected, stop)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _watch(
    folder: str, code: bytes, limits: Limits, protected: bool, stop: threading.Event
) -> ToolResult:
    began = time.monotonic()
    if len(code) > _CODE_BYTES:
        return ToolResult(f"the code is longer than {_CODE_BYTES} bytes", "error", 0.0)
    numbers = [
        os.getpid(),
        int(protected),
        int(limits.seconds) + 1,
        limits.memory_mb * _MB,
        limits.folder_mb * _MB,
    ]
    environment = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment |= {"HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8"}  # nothing of the user's
    bare = [sys.executable, "-I", "-S", "-B", "-X", "utf8", confine.__file__]
    with tempfile.TemporaryFile() as source:
        source.write(code)
        source.seek(0)
        process = subprocess.Popen(
            [*bare, *map(str, numbers), folder, *_paths()],
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    assert process.stdout
    output = bytearray()
    try:
        status = _until_end(process, output, folder, limits, stop, began)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    if output[:1] != b"\0" and status == "error":
        raise RuntimeError(f"the tool's process did not start: {output.decode(errors='replace')}")
    text = output[1 : 1 + limits.output_bytes].decode(errors="replace")
    return ToolResult(text, status, time.monotonic() - began)


def _until_end(
    process: subprocess.Popen[bytes],
    output: bytearray,
    folder: str,
    limits: Limits,
    stop: threading.Event,
    began: float,
) -> Status:
    """Collect the output until the process has ended, or has to be."""
    assert process.stdout
    ended = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            while True:
                left = limits.seconds - (time.monotonic() - began)
                if left <= 0:
                    return "timeout"
                if stop.is_set():
                    return "cancelled"
                ready = {key.fd for key, _ in selector.select(min(left, _LOOK_S))}
                if process.stdout.fileno() in ready:
                    piece = os.read(process.stdout.fileno(), 65_536)
                    if not piece:
                        selector.unregister(process.stdout)
                    output += piece
                    if len(output) > 1 + limits.output_bytes:
                        return "output"
                elif ended in ready:
                    break
                if _too_much(folder, limits.folder_mb * _MB):
                    return "disk"
    finally:
        os.close(ended)
    if _too_much(folder, limits.folder_mb * _MB):
        return "disk"
    code = process.wait()
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "timeout"
    return {0: "ok", confine.MEMORY_EXIT: "memory"}.get(code, "error")  # type: ignore[return-value]


def _too_much(folder: str, most: int) -> bool:
    """Whether a folder holds so many bytes on the disk, or too many files; it has no folders."""
    held = 0
    for number, entry in enumerate(os.scandir(folder)):
        with contextlib.suppress(OSError):
            held += entry.stat(follow_symlinks=False).st_blocks * 512
        if held >= most or number >= _MAX_FILES:
            return True
    return False
