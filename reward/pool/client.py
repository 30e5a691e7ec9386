"""The callers' side of the node's verifier: connections, and starting it where there is none.

Any number of threads and processes of a node share one server (:mod:`.server`). Each call takes a
connection from a free list, so that as many run at once as there are callers.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import math
import os
import re
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import vespo_openrlhf

logger = logging.getLogger(__name__)

_START_S = 60.0
_ATTEMPTS = 4
_GRACE_S = 35.0  # the server's queue limit and then some: the server answers first
_LONGEST_BASE = 75  # the address of a unix socket holds 107 bytes
_HERE = Path(__file__).resolve().parent
_PACKAGE = _HERE.parent  # whatever a worker may run of ours

_free: list[socket.socket] = []
_free_lock = threading.Lock()
_started: list[subprocess.Popen[bytes]] = []
_warned = threading.Event()
_give_up_at = math.inf
# The names of environment variables that hold credentials, but not TOKENIZERS_PARALLELISM.
_SECRET = re.compile(r"key|token(?!izer)|secret|passw|credential|_pwd$|_auth", re.IGNORECASE)


def _after_fork() -> None:
    """A child neither owns its parent's connections nor knows who held the lock."""
    global _free_lock
    _free_lock = threading.Lock()
    for connection in _free:
        connection.close()  # the parent's stays open
    _free.clear()
    _started.clear()


os.register_at_fork(after_in_child=_after_fork)


class FailedError(Exception):
    """No value came back; the argument is the reason: timeout, overloaded or unavailable."""


def socket_path() -> Path:
    """Where this user's server for this code and interpreter listens.

    Raises:
        OSError: there is no folder that others cannot write to, and none can be made.
    """
    stamp = max(file.stat().st_mtime_ns for file in _PACKAGE.rglob("*.py"))
    key = f"{_PACKAGE}|{sys.executable}|{stamp}"
    return _directory() / hashlib.sha256(key.encode()).hexdigest()[:12]


def _directory() -> Path:
    """A folder of this user's alone, the same for all processes of the node that see the same
    ``XDG_RUNTIME_DIR`` and ``TMPDIR``.

    In a temporary folder that others can write to, the usual name may be taken by somebody else,
    who could do no more than keep us from it; the folder then has a name that nobody can foretell,
    and is known by its owner.
    """
    user = os.getuid()
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{user}")
    if _is_ours(runtime) and len(str(runtime)) <= _LONGEST_BASE:
        directory = runtime / "vespo-reward"
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory
    base = Path(tempfile.gettempdir())
    if len(str(base)) > _LONGEST_BASE:
        base = Path("/tmp")
    directory = base / f"reward-{user}"
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    if _is_ours(directory):
        return directory
    prefix = f"{directory.name}-"
    if not any(map(_is_ours, base.glob(f"{prefix}*"))):
        tempfile.mkdtemp(prefix=f"{prefix}{time.time_ns()}-", dir=base)
    return min(found for found in base.glob(f"{prefix}*") if _is_ours(found))  # the oldest


def _is_ours(directory: Path) -> bool:
    """Whether it is a folder, and no link to one, that nobody else can look into."""
    try:
        status = directory.lstat()
    except OSError:
        return False
    private = status.st_uid == os.getuid() and not status.st_mode & 0o077
    return stat.S_ISDIR(status.st_mode) and private


def _try_connect(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
        connection.close()
        return None
    return connection


def _open(path: Path, flags: int = 0) -> BinaryIO:
    """A file to write to, as it is, made where it is missing; a link is not followed."""
    flags |= os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, mode=0o600), "wb")


def _start(path: Path) -> None:
    """Start the server; called under the lock."""
    environment = {n: value for n, value in os.environ.items() if not _SECRET.search(n)}
    root = str(Path(vespo_openrlhf.__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(
        [*filter(None, [environment.get("PYTHONPATH")]), root]
    )
    environment.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", PYTHONHASHSEED="0")
    with _open(Path(f"{path}.log"), os.O_APPEND) as log:
        process = subprocess.Popen(
            [sys.executable, "-I", str(_HERE / "guardian.py"), str(path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
    _started[:] = [p for p in _started if p.poll() is None] + [process]


def _connect() -> socket.socket:
    path = socket_path()
    connection = _try_connect(path)
    if connection is not None:
        return connection
    with _open(path.parent / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = _try_connect(path)
        if connection is not None:
            return connection
        _start(path)
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            connection = _try_connect(path)
            if connection is not None:
                return connection
            if _started[-1].poll() is not None:
                break
            time.sleep(0.02)
    raise ConnectionError(f"the verifier did not start; see {path}.log")


def _take() -> socket.socket:
    with _free_lock:
        if _free:
            return _free.pop()
    return _connect()


def _exchange(connection: socket.socket, request: bytes, limit: float) -> dict[str, Any]:
    connection.settimeout(limit)
    connection.sendall(request)
    reply = b""
    while not reply.endswith(b"\n"):
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("the verifier closed the connection")
        reply += part
    return json.loads(reply)


def call(operation: str, *args: Any, timeout_s: float) -> Any:
    """Run an operation of :mod:`vespo_openrlhf.reward.pool.worker` on the node's pool.

    A connection or a server that is lost on the way is replaced, and the call made again.

    Raises:
        FailedError: with the reason as its argument.
    """
    request = json.dumps({"op": operation, "args": args, "timeout": timeout_s}).encode() + b"\n"
    for attempt in range(1, _ATTEMPTS + 1):
        connection = None
        try:
            connection = _take()
            left = max(0.01, _give_up_at - time.monotonic())
            reply = _exchange(connection, request, min(timeout_s + _GRACE_S, left))
        except TimeoutError:
            if connection is not None:
                connection.close()
            raise FailedError("overloaded") from None
        except (OSError, ValueError) as error:
            if connection is not None:
                connection.close()
            close()  # the idle ones lead to the same server
            if attempt == _ATTEMPTS:
                if not _warned.is_set():
                    _warned.set()
                    logger.error("the math verifier cannot be reached: %s", error)
                raise FailedError("unavailable") from error
            time.sleep(0.05 * attempt)  # one that is dying still accepts for a moment
            continue
        with _free_lock:
            _free.append(connection)
        if "failure" in reply:
            raise FailedError(reply["failure"])
        return reply["value"]
    raise AssertionError("unreachable")


def close() -> None:
    """Close the idle connections of this process; the server exits once it has none."""
    with _free_lock:
        while _free:
            _free.pop().close()


@contextlib.contextmanager
def used_for(seconds: float) -> Iterator[None]:
    """For a score that runs in a worker and may itself ask the verifier: wait no longer than
    this, and then keep no connection, which would keep the server from its end."""
    global _give_up_at
    _give_up_at = time.monotonic() + seconds
    try:
        yield
    finally:
        _give_up_at = math.inf
        close()
