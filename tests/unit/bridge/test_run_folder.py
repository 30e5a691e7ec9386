"""The run folder: one process at a time, nothing deleted, every start written down."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.bridge.run.folder import RunFolder

HOLDER = """
import sys, time
from pathlib import Path
from vespo_openrlhf.bridge.run.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    print(child.pid, flush=True)
    time.sleep(600)
"""


def write_lines(path: Path, *lines: dict[str, Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of 10 batches of 4 updates, evaluated at every fifth."""
    steps = [{"step": step, "kind": "train"} for step in range(1, 11)]
    write_lines(tmp_path / "metrics.jsonl", *steps, {"step": 10, "kind": "eval"})
    write_lines(tmp_path / "updates.jsonl", *({"update": u, "step": 1 + u // 4} for u in range(40)))
    write_lines(tmp_path / "samples.jsonl", *({"update": u, "row": u} for u in range(40)))
    for step in (5, 10):
        (tmp_path / "eval" / f"step_{step:06d}").mkdir(parents=True)
    (tmp_path / "prompts.json").write_text("[]")
    (tmp_path / "model").mkdir()
    return RunFolder(tmp_path)


def everything(folder: Path) -> list[str]:
    """All records of the folder, in whatever file of that name."""
    found = [f"{path.name}: {line}" for path in sorted(folder.rglob("*.jsonl"))
             for line in path.read_text().splitlines()]  # fmt: skip
    return sorted(found + [path.name for path in folder.rglob("step_*")])


def test_a_resume_keeps_what_came_after_its_checkpoint_aside(run: RunFolder) -> None:
    before = everything(run.path)
    with open(run.path / "samples.jsonl", "a") as file:
        file.write('{"update": 1, "ro')  # the kill
    run.resume_at(6, 24)
    assert [line["step"] for line in read_lines(run.path / "metrics.jsonl")] == [*range(1, 7)]
    assert [line["update"] for line in read_lines(run.path / "samples.jsonl")] == [*range(24)]
    updates = read_lines(run.path / "updates.jsonl")
    assert [line["update"] for line in updates] == [*range(24)]
    assert updates[-1]["step"] == 6
    aside = run.path / "superseded" / "1"
    assert [line["update"] for line in read_lines(aside / "updates.jsonl")] == [*range(24, 40)]
    assert [line["step"] for line in read_lines(aside / "metrics.jsonl")] == [7, 8, 9, 10, 10]
    assert (aside / "samples.jsonl").read_text().splitlines()[-1] == '{"update": 1, "ro'
    assert [path.name for path in (run.path / "eval").iterdir()] == ["step_000005"]
    assert (aside / "eval" / "step_000010").is_dir()
    assert everything(run.path) == sorted([*before, 'samples.jsonl: {"update": 1, "ro'])
    # Another resume that goes back writes beside it, and one that does not writes nothing.
    run.resume_at(6, 24)
    run.resume_at(4, 16)
    assert [path.name for path in sorted((run.path / "superseded").iterdir())] == ["1", "2"]
    assert [line["step"] for line in read_lines(run.path / "superseded/2/metrics.jsonl")] == [5, 6]


def test_a_start_from_the_beginning_erases_nothing(run: RunFolder) -> None:
    before = everything(run.path)
    run.resume_at(0, 0)
    assert [path.name for path in run.path.iterdir()] == ["superseded"]
    assert everything(run.path) == before
    assert (run.path / "superseded" / "1" / "model").is_dir()


def test_a_folder_that_holds_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()  # the policy, perhaps
    RunFolder(tmp_path).resume_at(0, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_a_first_batch_left_is_not_counted_twice(tmp_path: Path) -> None:
    """Killed before its metrics were written; the model in the folder may be the policy."""
    (tmp_path / "model").mkdir()
    for name in ("updates.jsonl", "samples.jsonl"):
        write_lines(tmp_path / name, {"update": 0}, {"update": 1})
    RunFolder(tmp_path).resume_at(0, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "superseded"]
    assert len(read_lines(tmp_path / "superseded/1/updates.jsonl")) == 2


def test_records_without_the_field_stay(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", {"note": "hello"}, {"step": 4}, {"step": None})
    RunFolder(tmp_path).resume_at(3, 0)
    assert read_lines(tmp_path / "metrics.jsonl") == [{"note": "hello"}]
    aside = read_lines(tmp_path / "superseded/1/metrics.jsonl")
    assert aside == [{"step": 4}, {"step": None}]


def test_every_start_is_written_down_without_its_secrets(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for lr in (1, 2, 3):
        with run.locked():
            run.begin({"lr": lr, "logger.wandb.key": "SECRET", "path": Path("x")}, {"torch": "2"})
    names = ["config-1.json", "config-2.json", "config.json"]
    configs = [json.loads((run.path / name).read_text()) for name in names]
    assert [config["lr"] for config in configs] == [1, 2, 3]
    assert run.last_flags()["lr"] == 3
    assert not any("SECRET" in path.read_text() for path in run.path.iterdir())
    assert json.loads((run.path / "versions.json").read_text()) == {"torch": "2"}


def test_a_run_is_finished_until_it_is_started_again(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.finished_episodes() == 0
    run.finish(2)
    assert RunFolder(tmp_path).finished_episodes() == 2
    run.begin({}, {})
    assert run.finished_episodes() == 0


def test_two_processes_do_not_share_a_run_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        refused = pytest.raises(ValueError, match=rf"in use by process {holder.pid} on .* since")
        with refused, RunFolder(tmp_path).locked():
            pass
    finally:
        holder.kill()
        holder.wait()
    try:
        # Neither the file it left nor a child that outlives it holds the folder.
        os.kill(child, 0)
        assert str(holder.pid) in (tmp_path / "lock").read_text()
        with RunFolder(tmp_path).locked():
            assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()
        with RunFolder(tmp_path).locked():
            pass
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_file_system_without_locks_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The file system is a stand-in: none here lacks them."""

    def no_locks(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with RunFolder(tmp_path).locked():
        assert "cannot be locked (Operation not supported)" in capsys.readouterr().out
