"""What the tuned runs say: chosen again by their own rule, compared over all tasks together."""

import shutil
from pathlib import Path

import pytest

from vespo_openrlhf.study.cells import Cell
from vespo_openrlhf.study.claims.contrasts import contrasts
from vespo_openrlhf.study.claims.outcomes import TASKS
from vespo_openrlhf.study.claims.tuned import PAIRS, read_tuned, tables
from vespo_openrlhf.study.presets import PRESETS
from vespo_openrlhf.study.tasks import get_task

from .conftest import write_runs


def right(cell: Cell) -> float:
    """Kernels twice as sharp are the best, and pessimistic ones two points above the others."""
    sharpness = cell.loss.options.get("c1_pos", 4)
    tilt = 0.001 * ((cell.seed * 7) % 5 - 2) * (1 + len(cell.loss.label) % 3)
    better = 0.02 if cell.loss.options.get("shape") == "pessimistic" else 0.0
    return 0.8 + better - abs(sharpness - 4) / 100 + tilt


def write_tuning(path: Path, task: str, *, leave_out: int = 0) -> None:
    tuning = PRESETS["tuned"].at_rate(get_task(task).learning_rate).tuning
    assert tuning is not None
    progress = tuning.progress(right)
    cells = [*progress.cells, *tuning.report(progress.chosen)]
    write_runs(path, task, [(cell, right(cell)) for cell in cells[leave_out:]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for task in TASKS:
        write_tuning(folder / "tuned" / task / "runs.csv", task)
    return folder


def test_the_choice_is_the_one_that_the_tuning_made(folder: Path) -> None:
    tuned = read_tuned(folder / "tuned" / "long" / "runs.csv", "long")
    choice = tuned.chosen["VESPO"]
    assert (choice.setting.label, choice.learning_rate, choice.tried) == (
        "VESPO, kernel x 2",
        get_task("long").learning_rate,
        12,
    )
    assert {len(by_seed) for by_seed in tuned.outcomes.values()} == {64}
    assert len(tuned.outcomes) == 9


def test_48_comparisons_are_corrected_together(folder: Path) -> None:
    outcomes = {
        task: read_tuned(folder / "tuned" / task / "runs.csv", task).outcomes for task in TASKS
    }
    found = {(c.task, c.ours, c.rival): c for c in contrasts(outcomes, PAIRS)}
    assert len(found) == 48
    ps = sorted(contrast.found.p for contrast in found.values())
    assert found["uneven", "pessimistic", "VESPO"].verdict() == "above"
    assert min(contrast.found.holm_p for contrast in found.values()) == pytest.approx(48 * ps[0])
    made = tables(folder)
    assert made["choices"].count("| VESPO, kernel x 2 |") == 3
    assert made["tuned-leads"].count("| pessimistic, kernel by ESS | pessimistic |") == 1
    assert made["tuned-contrasts"].count("\n") == 2 + 48


def test_there_are_no_comparisons_before_all_tasks_are_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot find a task"):
        tables(tmp_path)
    shutil.copytree(folder / "tuned" / "long", tmp_path / "tuned" / "long")
    assert list(tables(tmp_path)) == ["choices", "tuned-finals"]


def test_what_is_missing_is_no_evidence(tmp_path: Path) -> None:
    write_tuning(tmp_path / "few" / "runs.csv", "uneven", leave_out=3)
    with pytest.raises(ValueError, match=r"3 runs of the preset tuned are missing"):
        read_tuned(tmp_path / "few" / "runs.csv", "uneven")
    write_tuning(tmp_path / "all" / "runs.csv", "uneven")
    with pytest.raises(ValueError, match="of another task than long, or is there twice"):
        read_tuned(tmp_path / "all" / "runs.csv", "long")
