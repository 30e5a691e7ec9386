"""Checkpoints with DeepSpeed's own files: kills, a full disk, another learning rate."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

KILLS = 50
# Stage 0 in float32 is the CPU stack's; the others are what runs on GPUs.
SETUPS = ("0-fp32", "0-bf16", "1-bf16", "2-bf16", "3-bf16")


def results(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_run_that_is_killed_at_any_moment_goes_on_from_its_last_save(
    run_on_deepspeed: Callable[..., str], tmp_path: Path
) -> None:
    (result,) = results(run_on_deepspeed("deepspeed_kills.py", tmp_path, KILLS))
    moments = [result[moment] for moment in ("resuming", "first", "later")]
    assert sum(moments) == KILLS
    assert min(moments) > 0
    assert result["saved"] > KILLS / 2
    # Nothing that was recorded and gone back behind is lost, and little else is left.
    run = tmp_path / "run"
    files = [run / "metrics.jsonl", *run.glob("superseded/*/metrics.jsonl")]
    steps = [json.loads(line)["step"] for file in files for line in whole_lines(file)]
    assert {*range(1, result["saved"] + 1)} <= {*steps}
    assert len([*run.glob("config*.json")]) > sum(moments[1:])
    assert len([*run.glob("checkpoints/_actor/*/")]) <= 3


def whole_lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.endswith("}")]


def test_a_full_disk_stops_the_run_and_leaves_the_checkpoint_before(
    run_on_deepspeed: Callable[..., str], small_disk: Path
) -> None:
    (result,) = results(run_on_deepspeed("deepspeed_full_disk.py", small_disk))
    (error,) = result["errors"]
    assert "checkpoint global_step3 was not saved" in error
    assert f"on the disk mounted at {small_disk}, with 0.0" in error
    assert result["left"] == []
    assert result["newest"] == "global_step2"
    (again,) = results(run_on_deepspeed("deepspeed_full_disk.py", small_disk))
    assert again["newest"] == "global_step2"


def test_a_resume_takes_the_learning_rate_of_its_flags_and_the_schedules_place(
    run_on_deepspeed: Callable[..., str], tmp_path: Path
) -> None:
    lines = results(run_on_deepspeed("deepspeed_checkpoints.py", tmp_path, *SETUPS))
    assert tuple(line["setup"] for line in lines) == SETUPS
    for line in lines:
        assert line["rates"] == pytest.approx(line["expected"], rel=1e-12), line
        assert (line["step"], line["updates"]) == (3, 5), line
        assert not line["latest"], line  # written when every rank has saved, not by one of them
