"""Whatever ends a run, nothing of it stays behind and its folder can be read.

By SIGKILL a run ends in test_failures.py. One of these is of an agent, and ends in mid-episode.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

START_TIMEOUT_S = 240
STOP_TIMEOUT_S = 60

Marked = tuple[dict[str, str], Callable[[], list[psutil.Process]]]


def wait_for_lines(path: Path, process: subprocess.Popen, count: int = 1) -> None:
    """Until `path` holds `count` lines; fails if the process ends first."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not (path.exists() and path.read_text().count("\n") >= count):
        assert process.poll() is None, f"ended with {process.returncode} before training began"
        assert time.monotonic() < deadline, "training did not begin"
        time.sleep(0.2)


def wait_for_none(alive: Callable[[], list[psutil.Process]]) -> None:
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while left := alive():
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + "; ".join(" ".join(p.cmdline())[:80] for p in left))
        time.sleep(0.5)


OF_AN_AGENT = {
    "reward__remote_url": False,
    "train__agent_func_path": Path(__file__).with_name("again.py"),
    "data__max_len": 96,
    "agent__weight": "turn",
}


@pytest.mark.parametrize(
    ("ending", "flags"),
    [(signal.SIGINT, {}), (signal.SIGTERM, OF_AN_AGENT)],
    ids=["SIGINT", "SIGTERM of an agent"],
)
def test_a_killed_training_leaves_no_process_and_a_readable_folder(
    ending: signal.Signals,
    flags: dict[str, Any],
    command: Callable[..., list[str]],
    tmp_path: Path,
    marked: Marked,
) -> None:
    environment, alive = marked
    arguments = command(tmp_path, train__async_enable=True, data__max_samples=256, **flags)
    with open(tmp_path / "log", "wb") as log:
        process = subprocess.Popen(arguments, env=environment, stdout=log, stderr=log)
    wait_for_lines(tmp_path / "metrics.jsonl", process)
    assert any("EngineCore" in p.name() or "vllm" in " ".join(p.cmdline()).lower() for p in alive())
    process.send_signal(ending)
    process.wait(timeout=STOP_TIMEOUT_S)
    wait_for_none(alive)
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        batch = json.loads(line)
        assert batch.get("turns") == (2 if flags else None)
    assert json.loads((tmp_path / "config.json").read_text())["run.dir"] == str(tmp_path)
