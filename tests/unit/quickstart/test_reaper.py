"""What the reaper takes for a cluster's processes, and how it ends them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import uuid

import psutil
import pytest

from vespo_openrlhf.quickstart import reaper

# A process that hides its environment, as Ray's agents do by giving themselves a title, and its
# parent, which leads the session.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env={}, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(100)
"""
PATIENT = "import time; print(flush=True); time.sleep(100)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + PATIENT


def start(child: str) -> tuple[str, subprocess.Popen, psutil.Process]:
    mark = uuid.uuid4().hex
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, child],
        env={**os.environ, reaper.VARIABLE: mark},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    return mark, parent, psutil.Process(int(parent.stdout.readline()))


@pytest.mark.parametrize("gently", [True, False])
@pytest.mark.parametrize("child", [PATIENT, STUBBORN])
def test_a_process_that_hides_its_environment_is_ended_with_its_session(
    child: str, gently: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "_GRACE_S", 0.5)
    mark, parent, hidden = start(child)
    _, other, others = start(PATIENT)
    try:
        assert {process.pid for process in reaper.marked(mark)} == {parent.pid, hidden.pid}
        reaper.end(mark, gently=gently)
        assert not hidden.is_running() or hidden.status() == psutil.STATUS_ZOMBIE
        assert others.is_running()
        assert other.poll() is None
    finally:
        for process in (parent, other, hidden, others):
            with contextlib.suppress(psutil.Error):
                process.kill()
        parent.wait()
        other.wait()


def test_a_process_that_nobody_has_asked_after_yet_is_not_waited_for() -> None:
    """A zombie of this test, whose child it is, once the reaper, another process, has ended it."""
    mark, parent, _ = start(PATIENT)
    code = (
        "import sys; from vespo_openrlhf.quickstart import reaper\n"
        "reaper._GRACE_S = 10_000; reaper.end(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, mark], check=True, timeout=60)
    assert reaper.marked(mark) == []
    parent.wait()
