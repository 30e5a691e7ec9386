"""Hostile code in real processes: each bounded, by its own status, and nothing left of it."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from vespo_openrlhf.agents import confine, sandbox
from vespo_openrlhf.agents.sandbox import Limits, ToolResult

pytestmark = pytest.mark.skipif(bool(confine.missing()), reason=confine.missing())


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(psutil.Process().children(recursive=True))
    yield
    assert set(psutil.Process().children(recursive=True)) <= before
    assert not list(tmp_path.glob("tool-*"))


def run(code: str, **limits: float) -> ToolResult:
    return asyncio.run(sandbox.run(code, Limits(**limits)))  # type: ignore[arg-type]


def test_code_runs_with_the_packages_that_are_installed() -> None:
    result = run("import numpy, sympy\nprint(numpy.ones(2).sum(), sympy.sqrt(8))")
    assert (result.status, result.output) == ("ok", "2.0 2*sqrt(2)\n")


def test_an_error_shows_the_line_it_is_in() -> None:
    result = run("print('before')\n1 / 0")
    assert result.status == "error"
    assert "before" in result.output
    assert 'File "<code>", line 2' in result.output
    assert "1 / 0" in result.output


def test_files_of_its_own_folder_are_its_to_write_and_read() -> None:
    assert run("open('a', 'w').write('x'); print(open('a').read())").output == "x\n"


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("import time; time.sleep(100)", "timeout"),
        ("import signal; signal.signal(15, signal.SIG_IGN)\nwhile True: pass", "timeout"),
        ("import os, time; os.close(1); os.close(2); time.sleep(100)", "timeout"),
        ("bytearray(10 * 2**30)", "memory"),
        ("while True: print('x' * 1000)", "output"),
        ("for i in range(10_000): open(str(i), 'wb').write(b'x' * 2**20)", "disk"),
        ("while True: open(str(__import__('time').time_ns()), 'w')", "disk"),
    ],
)
def test_what_exceeds_a_limit_is_killed(code: str, status: str) -> None:
    result = run(code, seconds=5 if status == "disk" else 0.7)
    assert result.status == status
    assert len(result.output) <= Limits().output_bytes


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos.fork()",
        "import ctypes\nassert ctypes.CDLL(None).vfork() >= 0",
        "import threading\nthreading.Thread(target=print).start()",
        "import os\nos.execv('/bin/ls', ['ls'])",
        "import subprocess\nsubprocess.run(['/bin/ls'])",
        "open('/etc/passwd')",
        "import os\nos.listdir('/root')",
        "import os\nos.listdir('/')",
        "open('/proc/self/environ')",
        "open('../x', 'w')",
        "import os\nos.symlink('/etc/passwd', 'a')",
        "import os\nos.link('/etc/passwd', 'a')",
        "import os\nos.mkdir('a')",
        "import os\nos.memfd_create('a')",
        "import os\nos.write(0, b'x')",  # the file that the code came in
        "import os\nos.open('.', os.O_TMPFILE | os.O_RDWR)",
        "import os\nos.chmod('.', 0o777)",
        "import os\nos.kill(os.getppid(), 0)",
        "import socket\nsocket.socket()",
        "import socket\nsocket.socket(socket.AF_UNIX)",
        "import socket\nsocket.socketpair()",
        "import resource\nresource.prlimit(0, resource.RLIMIT_NOFILE, (9, 9))",
        "import fcntl\nfcntl.fcntl(1, 1031, 2**20)",  # the size of our pipe
        "import fcntl\nfcntl.fcntl(1, 8, 1)",  # whom our pipe signals
        "import ctypes\nassert ctypes.CDLL(None).syscall(425, 8, bytes(120)) >= 0",  # io_uring
        "import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) >= 0",
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) >= 0",
        "import ctypes\nassert ctypes.CDLL(None).syscall(0x40000000 + 57) >= 0",  # x32's fork
    ],
)
def test_what_is_closed_off_fails(code: str) -> None:
    result = run(code)
    assert result.status == "error"
    assert any(
        name in result.output
        for name in (
            *("PermissionError", "AssertionError", "can't start new thread", "maximum limit"),
            "Bad file descriptor",
        )
    ), result.output


def test_a_link_that_stands_in_its_folder_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = sandbox._watch

    def with_link(folder: str, *rest: object) -> ToolResult:
        os.symlink("/etc/passwd", f"{folder}/a")
        return watch(folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(sandbox, "_watch", with_link)
    assert "PermissionError" in run("open('a')").output


def test_the_folder_of_another_call_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "tool-other").mkdir()
    (tmp_path / "tool-other" / "a").write_text("secret")
    result = run("import os\nopen('../tool-other/a')")
    assert "PermissionError" in result.output
    (tmp_path / "tool-other" / "a").unlink()
    (tmp_path / "tool-other").rmdir()


def test_nothing_of_the_environment_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    result = run("import os\nprint(*os.environ, os.path.expanduser('~') == os.getcwd())")
    assert "HF_TOKEN" not in result.output
    assert result.output.endswith("True\n")


def test_a_call_that_is_cancelled_is_killed() -> None:
    async def cancel() -> None:
        call = asyncio.ensure_future(sandbox.run("while True: pass", Limits(seconds=60)))
        while not psutil.Process().children():
            await asyncio.sleep(0.01)
        call.cancel()
        while psutil.Process().children():
            await asyncio.sleep(0.01)

    asyncio.run(cancel())


def test_a_child_dies_with_the_process_that_runs_it(tmp_path: Path) -> None:
    code = (
        "import asyncio\nfrom vespo_openrlhf.agents.sandbox import *\n"
        "asyncio.run(run('while True: pass', Limits(seconds=60)))"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    while not (children := psutil.Process(runner.pid).children()):
        pass
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    assert not psutil.wait_procs(children, timeout=10)[1]
    for folder in tmp_path.glob("tool-*"):  # a killed runner cannot take it away
        folder.rmdir()


def test_a_machine_that_cannot_close_it_off_does_not_run_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(confine, "missing", lambda: "the kernel has no Landlock")
    sandbox._protected.cache_clear()
    try:
        with pytest.raises(RuntimeError, match="no Landlock"):
            run("print(1)")
        assert run("print(1)", unprotected=True).output == "1\n"
    finally:
        sandbox._protected.cache_clear()
