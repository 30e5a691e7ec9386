"""The callers' side of the node's verifier: connections, and starting it where there is none.

Any number of threads and processes of a node share one server (:mod:`.server`). Each call takes a
connection from a free list, so that as many run at once as there are callers.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import vespo_openrlhf

logger = logging.getLogger(__name__)

_START_S = 60.0
_ATTEMPTS = 4
_GRACE_S = 35.0  # the server's queue limit and then some: the server answers first
_PACKAGE = Path(__file__).resolve().parent

_free: list[socket.socket] = []
_free_lock = threading.Lock()
_started: list[subprocess.Popen[bytes]] = []
_warned = threading.Event()


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
    """Where this user's server for this code and interpreter listens."""
    stamp = max(file.stat().st_mtime_ns for file in _PACKAGE.glob("*.py"))
    key = f"{_PACKAGE}|{sys.executable}|{stamp}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    base = Path(tempfile.gettempdir())
    if len(str(base)) > 75:  # the address of a unix socket holds 107 bytes
        base = Path("/tmp")
    directory = base / f"reward-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise PermissionError(f"{directory} is not this user's alone")
    return directory / digest


def _try_connect(path: Path) -> socket.socket | None:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
        connection.close()
        return None
    return connection


def _start(path: Path) -> None:
    """Start the server; called under the lock."""
    environment = dict(os.environ)
    root = str(Path(vespo_openrlhf.__file__).resolve().parents[1])
    environment["PYTHONPATH"] = os.pathsep.join(
        [*filter(None, [environment.get("PYTHONPATH")]), root]
    )
    environment.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", PYTHONHASHSEED="0")
    log = open(f"{path}.log", "ab")  # noqa: SIM115 - the child keeps it
    with log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vespo_openrlhf.reward.server", str(path)],
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
    with open(path.parent / "lock", "w") as lock:
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
    """Run an operation of :mod:`vespo_openrlhf.reward.worker` on the node's pool.

    A connection or a server that is lost on the way is replaced, and the call made again.

    Raises:
        FailedError: with the reason as its argument.
    """
    request = json.dumps({"op": operation, "args": args, "timeout": timeout_s}).encode() + b"\n"
    for attempt in range(1, _ATTEMPTS + 1):
        connection = None
        try:
            connection = _take()
            reply = _exchange(connection, request, timeout_s + _GRACE_S)
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
