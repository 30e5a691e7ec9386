"""The quickstart as a user runs it, shortened; and what is left when it is interrupted."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

Marked = tuple[dict[str, str], Callable[[], list[psutil.Process]]]
QUICKSTART = [sys.executable, "-m", "vespo_openrlhf.quickstart"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a quickstart of ten rollout batches, which ended well; on the CPU stack by
    force, as whoever has one GPU is told to run it."""
    out = tmp_path_factory.mktemp("quickstart")
    run = subprocess.run(
        [*QUICKSTART, "--cpu", "--batches", "10", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-6000:]
    (out / "output").write_text(run.stdout)
    return out


def test_training_raises_the_accuracy_and_the_table_says_so(finished: Path) -> None:
    before, after = (
        json.loads((finished / name / "summary.json").read_text())["benchmarks"]["heldout"]["avg@k"]
        for name in ("before", "after")
    )
    assert before <= 0.45
    assert after >= 0.80
    table = (finished / "output").read_text().rpartition("held-out accuracy")[2]
    assert f"{100 * after:.1f} ±" in table
    assert "10 rollout batches, 80 updates" in table


def test_the_run_folder_holds_what_is_promised(finished: Path) -> None:
    run = finished / "run"
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 11))
    assert json.loads((run / "config.json").read_text())["actor.policy_loss_type"] == "vespo"
    assert list((run / "tensorboard").rglob("events*"))
    assert (run / "model" / "model.safetensors").is_file()
    assert json.loads((run / "versions.json").read_text())["openrlhf"]
    assert (finished / "training.png").read_bytes().startswith(b"\x89PNG")
    assert "<h2" in (finished / "report.html").read_text()


def test_a_second_run_skips_what_is_done(finished: Path) -> None:
    metrics = finished / "run" / "metrics.jsonl"
    written = metrics.stat().st_mtime_ns
    run = subprocess.run(
        [*QUICKSTART, "--batches", "10", "--out", str(finished)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.count("nothing to do") == 2
    assert metrics.stat().st_mtime_ns == written


def test_a_finished_run_does_not_pass_for_a_longer_one(finished: Path) -> None:
    run = subprocess.run(
        [*QUICKSTART, "--batches", "12", "--out", str(finished)], capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "holds a finished run of 10 rollout batches" in run.stderr


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_quickstart_leaves_no_process_and_a_readable_folder(
    ending: signal.Signals, finished: Path, tmp_path: Path, marked: Marked
) -> None:
    environment, alive = marked
    for part in ("embedded", "before"):
        shutil.copytree(finished / part, tmp_path / part)
    with open(tmp_path / "output", "wb") as output:
        process = subprocess.Popen(
            [*QUICKSTART, "--out", str(tmp_path)], env=environment, stdout=output, stderr=output
        )
    metrics = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 240
    while not (metrics.exists() and metrics.read_text().endswith("\n")):
        assert process.poll() is None, (tmp_path / "output").read_text()[-3000:]
        assert time.monotonic() < deadline, "training did not begin"
        time.sleep(0.2)
    process.send_signal(ending)
    assert process.wait(timeout=60) == (130 if ending == signal.SIGINT else -signal.SIGKILL)
    deadline = time.monotonic() + 60
    while left := alive():
        assert time.monotonic() < deadline, [" ".join(p.cmdline())[:80] for p in left]
        time.sleep(0.5)
    for line in metrics.read_text().splitlines():
        json.loads(line)


def test_batches_below_one_are_refused() -> None:
    run = subprocess.run([*QUICKSTART, "--batches", "0"], capture_output=True, text=True)
    assert run.returncode == 1
    assert "--batches must be at least 1" in run.stderr
