"""Which checkpoints are whole, which are kept, and what is left of one that could not be saved.

The files are small ones of our own; DeepSpeed's are in tests/integration/test_checkpoints.py.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from vespo_openrlhf.bridge.run.checkpoints import CheckpointError, Checkpoints

Save = Callable[..., None]
BOTH = ("_actor", "_critic")


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Saves the checkpoint of a step: save(step, parts=("_actor",), tag=None)."""

    def save(step: int, parts: tuple[str, ...] = ("_actor",), tag: str = "") -> None:
        tag = tag or f"global_step{step}"
        with Checkpoints(tmp_path).saving(tag):
            write(tmp_path, tag, parts)

    return save


def write(folder: Path, tag: str, parts: tuple[str, ...] = ("_actor",)) -> None:
    """What the ranks write."""
    for part in parts:
        (folder / part / tag).mkdir(parents=True)
        for rank in range(2):
            (folder / part / tag / f"rank_{rank}.pt").write_bytes(b"x" * 100)
    (folder / "rollouts").mkdir(exist_ok=True)
    (folder / "rollouts" / f"{tag}.pt").write_bytes(b"x")


def tags(folder: Path, part: str = "_actor") -> list[str]:
    return sorted(path.name for path in (folder / part).iterdir() if path.is_dir())


def test_without_checkpoints_there_is_none(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "not there")
    assert checkpoints.newest() is None
    assert checkpoints.clear_after(None) == []
    checkpoints.rotate(2, 1.0)
    with checkpoints.saving("global_step1"):  # --ckpt.disable_ds
        pass
    assert checkpoints.newest() is None
    assert not (tmp_path / "not there").exists()


def test_the_newest_by_step_is_the_one_to_go_on_from(tmp_path: Path, save: Save) -> None:
    for step in (8, 16, 104):
        save(step, BOTH)
    assert Checkpoints(tmp_path).newest() == "global_step104"
    for part in BOTH:
        assert (tmp_path / part / "latest").read_text() == "global_step104"


def test_the_best_is_not_one_to_go_on_from(tmp_path: Path, save: Save) -> None:
    save(4)
    save(6, tag="best_global_step6")
    Checkpoints(tmp_path).keep_best("best_global_step6")
    assert Checkpoints(tmp_path).newest() == "global_step4"
    assert (tmp_path / "_actor" / "latest").read_text() == "global_step4"
    save(8, tag="best_global_step8")
    assert "best_global_step6" in tags(tmp_path)  # until the better one is complete
    for name in ("best_global_step6", "best_global_step8", "global_step4"):  # of --ckpt.save_hf
        (tmp_path / f"{name}_hf").mkdir()
    (tmp_path / "best_so_far_hf").mkdir()  # a user's own
    Checkpoints(tmp_path).keep_best("best_global_step8")
    assert (tmp_path / "best_so_far_hf").exists()
    assert not (tmp_path / "best_global_step6_hf").exists()
    assert (tmp_path / "best_global_step8_hf").exists()
    assert (tmp_path / "global_step4_hf").exists()
    with Checkpoints(tmp_path).saving("best_global_step9"):
        pass  # no better
    Checkpoints(tmp_path).keep_best("best_global_step9")
    assert tags(tmp_path) == ["best_global_step8", "global_step4"]


def test_rotation_is_by_age_and_spares_the_newest_and_the_best(tmp_path: Path, save: Save) -> None:
    checkpoints = Checkpoints(tmp_path)
    for step in (8, 16, 24, 104):
        save(step, BOTH)
        if step == 16:
            save(16, tag="best_global_step16")
        checkpoints.rotate(2, float("inf"))
        kept = [f"global_step{s}" for s in (8, 16, 24, 104) if s <= step][-2:]
        assert tags(tmp_path, "_critic") == sorted(kept)
        assert {*tags(tmp_path)} - {"best_global_step16"} == {*kept}
        rollouts = {path.stem for path in (tmp_path / "rollouts").iterdir()}
        assert rollouts - {"best_global_step16"} == {*kept}
    assert "best_global_step16" in tags(tmp_path)
    for limits in ((0, 1.0), (3, 1e-9)):
        checkpoints.rotate(*limits)
        assert checkpoints.newest() == "global_step104"
        assert tags(tmp_path, "_critic") == ["global_step104"]


def test_rotation_deletes_the_drafts_of_killed_saves(tmp_path: Path, save: Save) -> None:
    save(8)
    rollouts = tmp_path / "rollouts"
    code = (
        "import os, pathlib, sys\n"
        "from vespo_openrlhf.files import written_whole\n"
        "with written_whole(pathlib.Path(sys.argv[1])) as draft:\n"
        "    draft.write_bytes(b'half')\n"
        "    os._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(rollouts / "global_step16.pt")], check=False)
    assert len(list(rollouts.iterdir())) == 2
    Checkpoints(tmp_path).rotate(2, float("inf"))
    assert [path.name for path in rollouts.iterdir()] == ["global_step8.pt"]


def test_more_than_max_mem_is_deleted_the_oldest_first(tmp_path: Path, save: Save) -> None:
    for step in (1, 2, 3):
        save(step)
    Checkpoints(tmp_path).rotate(9, 450 / 1024**3)
    assert tags(tmp_path) == ["global_step2", "global_step3"]


@pytest.mark.parametrize("written", [(), ("_actor",), BOTH])
def test_a_checkpoint_that_a_kill_left_unfinished_is_passed_over(
    tmp_path: Path, save: Save, written: tuple[str, ...]
) -> None:
    """Killed before its record: whatever of it is there, the one before is taken."""
    for step in (8, 16):
        save(step, BOTH)
    write(tmp_path, "global_step24", written)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest() == "global_step16"
    lines = checkpoints.clear_after("global_step16")
    assert lines == ["deleted checkpoint global_step24, which was never finished"] * bool(written)
    assert tags(tmp_path) == tags(tmp_path, "_critic") == ["global_step16", "global_step8"]
    save(24, BOTH)
    assert checkpoints.newest() == "global_step24"


def test_the_first_checkpoint_of_a_run_may_be_unfinished(tmp_path: Path) -> None:
    write(tmp_path, "global_step8")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest() is None
    checkpoints.clear_after(None)
    assert tags(tmp_path) == []


@pytest.mark.parametrize("damage", ["shorter", "gone", "record"])
def test_a_damaged_checkpoint_is_passed_over_loudly_and_kept(
    tmp_path: Path, save: Save, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (8, 16):
        save(step, BOTH)
    victim = tmp_path / "_critic" / "global_step16" / "rank_1.pt"
    if damage == "shorter":
        victim.write_bytes(b"x")
    elif damage == "gone":
        victim.unlink()
    else:
        (tmp_path / "complete" / "global_step16.json").write_text("{")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest() == "global_step8"
    output = capsys.readouterr().out
    assert "WARNING: checkpoint global_step16" in output
    assert "damaged" in output
    assert checkpoints.clear_after("global_step8") == [
        "renamed checkpoint global_step16 to global_step16.damaged"
    ]
    assert tags(tmp_path) == ["global_step16.damaged", "global_step8"]
    assert (tmp_path / "_actor" / "latest").read_text() == "global_step8"


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_anew(
    tmp_path: Path, save: Save
) -> None:
    for step in (8, 16):
        save(step)
        (tmp_path / "_actor" / f"global_step{step}" / "rank_0.pt").unlink()
    with pytest.raises(ValueError, match=r"no checkpoint is whole: .*global_step16.*global_step8"):
        Checkpoints(tmp_path).newest()


def test_checkpoints_of_a_version_without_records_are_found(tmp_path: Path, save: Save) -> None:
    for step in (8, 16, 24):
        write(tmp_path, f"global_step{step}", BOTH)
    checkpoints = Checkpoints(tmp_path)
    (tmp_path / "_actor" / "latest").write_text("global_step24")
    (tmp_path / "_critic" / "latest").write_text("global_step16")  # killed between the two
    assert checkpoints.newest() == "global_step16"
    # Rotated by metric, then killed: what `latest` names is gone, and an older one is whole.
    for part in BOTH:
        shutil.rmtree(tmp_path / part / "global_step16")
    assert checkpoints.newest() == "global_step8"
    for part in BOTH:
        (tmp_path / part / "latest").write_text("")
    with pytest.raises(ValueError, match="latest is empty"):
        checkpoints.newest()


def test_a_kill_in_a_rotation_leaves_whole_checkpoints_or_none(
    tmp_path: Path, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill is a stand-in: an error at each of the calls that delete, in turn."""
    calls = 0

    def reached(deadly: int) -> None:
        nonlocal calls
        calls += 1
        if calls == deadly:
            raise KeyboardInterrupt

    for deadly in range(1, 8):
        folder = tmp_path / str(deadly)
        for step in (8, 16):
            with Checkpoints(folder).saving(f"global_step{step}"):
                write(folder, f"global_step{step}", BOTH)
        calls = 0
        with monkeypatch.context() as patched, contextlib.suppress(KeyboardInterrupt):
            for owner, name in ((Path, "unlink"), (Path, "replace"), (shutil, "rmtree")):
                real = getattr(owner, name)

                def dying(*args, _real=real, _deadly=deadly, **kwargs):
                    reached(_deadly)
                    return _real(*args, **kwargs)

                patched.setattr(owner, name, dying)
            Checkpoints(folder).rotate(1, 1.0)
        assert Checkpoints(folder).newest() == "global_step16"
        Checkpoints(folder).rotate(1, 1.0)
        for part in BOTH:
            assert [path.name for path in sorted((folder / part).iterdir())] == [
                "global_step16",
                "latest",
            ]


def test_a_save_that_fails_leaves_what_was_there_and_names_the_disk(
    tmp_path: Path, save: Save
) -> None:
    save(8)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    failed = pytest.raises(CheckpointError, match="No space left on device")
    with failed as error, Checkpoints(tmp_path).saving("global_step16"):
        write(tmp_path, "global_step16")
        raise RuntimeError("a worker's traceback\nOSError: [Errno 28] No space left on device")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    message = str(error.value)
    assert str(tmp_path) in message
    assert "on the disk mounted at /" in message
    assert "GiB free" in message
    assert "--ckpt.load_enable" in message


def test_a_record_lists_the_files_of_every_part(tmp_path: Path, save: Save) -> None:
    save(8, BOTH)
    record = json.loads((tmp_path / "complete" / "global_step8.json").read_text())
    assert record["files"] == {
        f"{part}/global_step8/rank_{rank}.pt": 100 for part in BOTH for rank in range(2)
    }
