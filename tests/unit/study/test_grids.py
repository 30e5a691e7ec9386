"""The secondary grids: each preset's runs and no others, a mean in its own row and column."""

from dataclasses import replace
from pathlib import Path

import pytest

from vespo_openrlhf.study.cells import BASE_RATE, Cell
from vespo_openrlhf.study.grids import SECTIONS, draw, read_grid, tables
from vespo_openrlhf.study.presets import PRESETS
from vespo_openrlhf.study.tasks import get_task

from .conftest import write_runs


def right(cell: Cell) -> float:
    """A number that tells a condition, and nothing else, apart; on average over the seeds."""
    noise = 0.1 * cell.mu_noise + 0.2 * cell.engine_noise + 0.1 * (cell.sampler_dtype != "float32")
    rate = 0.001 * round(cell.learning_rate / get_task("uneven").learning_rate)
    return (
        0.004 * cell.updates_per_batch + 0.001 * cell.lag + noise + rate + (cell.seed - 4.5) / 1000
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for preset, task in {(section.preset, section.task) for section in SECTIONS.values()}:
        scale = get_task(task).learning_rate / BASE_RATE
        cells = [
            replace(cell, learning_rate=float(f"{scale * cell.learning_rate:.6g}"))
            for cell in PRESETS[preset].cells()
        ]
        finals = [(cell, right(cell)) for cell in cells]
        write_runs(folder / preset / task / "runs.csv", task, finals)
    return folder


def rows(table: str) -> dict[str, list[str]]:
    """Label -> the means; and whatever the lines above them are."""
    cells = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {label: [cell.split(" ")[0] for cell in row] for label, *row in cells if label != "---"}


def test_each_condition_is_in_its_column(folder: Path) -> None:
    made = tables(folder)
    assert list(made) == list(SECTIONS)
    staleness = rows(made["staleness"])
    assert len(staleness) == 1 + 1 + len(PRESETS["paper"].grids[1].losses)
    assert staleness["VESPO"] == staleness["M2PO"] == ["1.7", "3.3", "6.5", "12.9", "25.7"]
    further = rows(made["lag-and-rate"])
    assert further["TOPR"] == ["3.3", "25.7", "9.7", "32.1", "3.4", "25.8"]
    # The control has been run at each learning rate.
    assert further["on-policy"] == ["0.5", "0.5", "0.5", "0.5", "0.6", "0.6"]
    mismatch = rows(made["mismatch-uneven"])
    assert mismatch["GSPO"] == ["3.3", "4.3", "7.3", "3.8", "5.3", "13.3"]
    assert mismatch["GSPO, old"] == ["–", *mismatch["GSPO"][1:]]
    assert len(rows(made["kernel"])) == 1 + 1 + 9


def test_other_runs_than_the_presets_are_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "kernel" / "uneven" / "runs.csv"
    changed = tmp_path / "kernel" / "uneven" / "runs.csv"
    changed.parent.mkdir(parents=True)
    changed.write_text(path.read_text().replace(",64,0,0.003", ",64,1,0.003", 1))
    with pytest.raises(ValueError, match=r"1 runs are missing, .* 1 runs are not of it"):
        read_grid(tmp_path, "kernel", "uneven")


def test_the_figure_has_every_loss(folder: Path, tmp_path: Path) -> None:
    draw(folder, tmp_path / "staleness.svg")
    drawn = (tmp_path / "staleness.svg").read_text()
    assert "M2PO 25.7; " in drawn
    assert ">others<" in drawn
