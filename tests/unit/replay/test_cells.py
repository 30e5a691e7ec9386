"""The trainings of a comparison, and what is told before any of them starts."""

import argparse
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from vespo_openrlhf.replay.cells import Job, make_cells, make_jobs, remember
from vespo_openrlhf.replay.flags import read_config


@pytest.fixture
def jobs_of(
    record: Callable[..., Path], tmp_path: Path, parser: argparse.ArgumentParser
) -> Callable[..., list[Job]]:
    def make(
        losses: Sequence[str],
        epochs: Sequence[int] = (1,),
        seeds: Sequence[int] = (),
        extra: Sequence[str] = (),
    ) -> list[Job]:
        run = tmp_path / "run"
        run = run if run.exists() else record()
        cells = make_cells(losses, epochs, seeds)
        return make_jobs(cells, run, read_config(run), tmp_path / "out", parser, extra)

    return make


def test_cells_are_named_for_what_they_are() -> None:
    cells = make_cells(["vespo", "a/mine.py:loss"], [1, 4], [0, 7])
    assert [cell.name for cell in cells] == [
        *("vespo-e1-s0", "vespo-e1-s7", "vespo-e4-s0", "vespo-e4-s7"),
        *("mine.py-loss-e1-s0", "mine.py-loss-e1-s7", "mine.py-loss-e4-s0", "mine.py-loss-e4-s7"),
    ]
    assert [cell.name for cell in make_cells(["grpo"], [2], [])] == ["grpo-e2"]
    assert str(make_cells(["grpo"], [2], [3])[0]) == "grpo, 2 epochs, seed 3"


@pytest.mark.parametrize("losses", [["vespo", "vespo"], ["a/mine.py:loss", "b/mine.py:loss"]])
def test_two_cells_have_two_folders(losses: list[str]) -> None:
    with pytest.raises(ValueError, match="once"):
        make_cells(losses, [1], [])


def test_no_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make_cells(["vespo"], [1, 0], [])


def test_a_cell_trains_from_the_run_in_its_order(
    jobs_of: Callable[..., list[Job]], tmp_path: Path
) -> None:
    (job,) = jobs_of(["vespo"], [2])
    assert job.flags["offline.data"] == [str(tmp_path / "run")]
    assert job.flags["offline.order"] == "recorded"
    assert job.flags["train.num_episodes"] == 2
    assert job.flags["train.seed"] == 42
    assert job.flags["vllm.num_engines"] == 0
    assert job.folder == tmp_path / "out" / "vespo-e2"
    assert job.arguments[job.arguments.index("--run.dir") + 1] == str(job.folder)
    assert job.batches == 4  # 6 groups are two batches of 4, twice


def test_a_seed_shuffles(jobs_of: Callable[..., list[Job]]) -> None:
    (job,) = jobs_of(["vespo"], seeds=[7])
    assert job.flags["offline.order"] == "shuffled"
    assert job.flags["train.seed"] == 7


def test_flags_of_the_user_win_over_the_runs(jobs_of: Callable[..., list[Job]]) -> None:
    jobs = jobs_of(["vespo", "gspo"], extra=["--actor.adam.lr", "1e-6"])
    assert [job.flags["actor.adam.lr"] for job in jobs] == [1e-6, 1e-6]


@pytest.mark.parametrize(
    ("word", "by"), [("--run.dir", "--out"), ("--offline.epochs=3", "--epochs")]
)
def test_what_a_cell_decides_is_no_flag_of_the_users(
    jobs_of: Callable[..., list[Job]], word: str, by: str
) -> None:
    with pytest.raises(ValueError, match=f"{word} after --: {by} decides it"):
        jobs_of(["vespo"], extra=[word])


@pytest.mark.parametrize(
    ("loss", "extra", "message"),
    [
        ("vesp", [], "unknown policy loss 'vesp'. Known: vespo"),
        ("gspo", ["--vespo.c1_pos", "3"], "gspo, 1 epoch: --vespo.c1_pos 3.0 has no effect"),
        ("vespo", ["--actor.adam.l", "3"], "did you mean --actor.adam.lr"),
        ("vespo", ["--data.max_len", "3"], "none can be trained on"),
        ("vespo", ["--rollout.temperature", "0.5"], "set it to 1"),
    ],
)
def test_what_training_would_refuse_is_refused_before(
    jobs_of: Callable[..., list[Job]], loss: str, extra: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        jobs_of([loss], extra=extra)


def test_a_start_that_is_gone_is_told(
    jobs_of: Callable[..., list[Job]], tmp_path: Path, model: Path
) -> None:
    jobs_of(["vespo"])
    model.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"no such folder.*was started from it"):
        jobs_of(["vespo"])
    moved = ["--actor.model_name_or_path", str(tmp_path / "moved")]
    (job,) = jobs_of(["vespo"], extra=moved)
    assert job.flags["actor.model_name_or_path"] == moved[1]


def test_a_recording_that_is_gone_is_told(
    jobs_of: Callable[..., list[Job]], tmp_path: Path
) -> None:
    jobs_of(["vespo"])
    shutil.rmtree(tmp_path / "run" / "recorded")
    with pytest.raises(ValueError, match="holds no recorded rollouts"):
        jobs_of(["vespo"])


def test_a_comparison_is_of_one_recording_and_one_set_of_flags(
    record: Callable[..., Path], tmp_path: Path
) -> None:
    run, other, out = record(), record(name="other"), tmp_path / "out"
    remember(out, run, ["--actor.adam.lr", "1"])
    remember(out, run, ["--actor.adam.lr", "1"])
    with pytest.raises(ValueError, match="a comparison on other flags after --: name another"):
        remember(out, run, [])
    with pytest.raises(ValueError, match="a comparison on another run"):
        remember(out, other, ["--actor.adam.lr", "1"])
    shard = run / "recorded" / "000001-0000.parquet"
    shutil.copy(shard, shard.with_name("000002-0000.parquet"))
    with pytest.raises(ValueError, match="another recording of the run"):
        remember(out, run, ["--actor.adam.lr", "1"])
