"""What vLLM has started ends with its engine actor, and only where that asked for it."""

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vespo_openrlhf.bridge import vllm_plugin

ORPHAN = Path(__file__).with_name("orphan.py")


@pytest.fixture
def family(request) -> Iterator[tuple[subprocess.Popen, int]]:
    """A process and the pid of the child it has spawned; both hold the pipe of its output."""
    environment = {k: v for k, v in os.environ.items() if k != vllm_plugin.VARIABLE}
    parent = subprocess.Popen(
        [sys.executable, ORPHAN, vllm_plugin.__file__],
        env=environment | request.param,
        stdout=subprocess.PIPE,
        text=True,
    )
    child = int(parent.stdout.readline().split()[1])
    yield parent, child
    parent.kill()
    parent.wait()
    if request.param == {}:
        os.kill(child, signal.SIGKILL)
    parent.stdout.close()


def ends_within(parent: subprocess.Popen, seconds: float) -> bool:
    """Whether the last process that holds the pipe ends in that time."""
    readable, _, _ = select.select([parent.stdout], [], [], seconds)
    return bool(readable)


@pytest.mark.parametrize("family", [{vllm_plugin.VARIABLE: "1"}], indirect=True, ids=["asked"])
def test_a_child_ends_when_its_parent_is_killed(family) -> None:
    parent, _ = family
    assert not ends_within(parent, 0.3)  # not before
    parent.kill()
    assert ends_within(parent, 60)  # at once; the limit is for a machine that is busy


@pytest.mark.parametrize("family", [{}], indirect=True, ids=["not asked"])
def test_without_the_variable_a_child_is_left_alone(family) -> None:
    parent, _ = family
    parent.kill()
    assert not ends_within(parent, 0.5)


def test_a_process_that_nobody_spawned_is_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(vllm_plugin.VARIABLE, "1")
    before = threading.active_count()
    vllm_plugin.register()
    assert threading.active_count() == before
