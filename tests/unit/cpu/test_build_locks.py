"""Locks of torch's extension builder: a killed build's goes, a running build's stays."""

import os
import subprocess
import sys
from pathlib import Path

from vespo_openrlhf.cpu.build_locks import remove_stale


def locked(root: Path, name: str, *, minutes_ago: float) -> Path:
    folder = root / "py311_cpu" / name
    folder.mkdir(parents=True)
    lock = folder / "lock"
    lock.touch()
    then = lock.stat().st_mtime - 60 * minutes_ago
    os.utime(lock, (then, then))
    return lock


def test_only_locks_that_nobody_works_under_are_removed(tmp_path: Path) -> None:
    dead = locked(tmp_path, "fused_adam", minutes_ago=5)
    new = locked(tmp_path, "just_begun", minutes_ago=0)
    building = locked(tmp_path, "shm_comm", minutes_ago=5)
    builder = subprocess.Popen(
        [sys.executable, "-c", "input()"], cwd=building.parent, stdin=subprocess.PIPE
    )
    try:
        assert remove_stale(tmp_path) == [dead]
        assert not dead.exists()
        assert new.exists()
        assert building.exists()
    finally:
        builder.kill()
        builder.wait()
    assert remove_stale(tmp_path) == [building]
    assert remove_stale(tmp_path / "nothing") == []
