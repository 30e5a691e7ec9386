"""The secondary grids: each preset's runs and no others, a mean in its own row and column."""

from pathlib import Path

import pytest

from vespo_openrlhf.study import routing
from vespo_openrlhf.study.cells import Cell
from vespo_openrlhf.study.claims import larger_model
from vespo_openrlhf.study.claims.grids import (
    SECTIONS,
    draw,
    read_grid,
    staleness,
    staleness_figure,
    tables,
)
from vespo_openrlhf.study.presets import PRESETS
from vespo_openrlhf.study.tasks import get_task

from .conftest import write_runs


def right(cell: Cell, task: str) -> float:
    """A number that tells a loss, its condition and task apart; on average over the seeds."""
    noise = 0.1 * cell.mu_noise + 0.2 * cell.engine_noise + 0.1 * (cell.sampler_dtype != "float32")
    rate = 0.001 * round(cell.learning_rate / get_task("uneven").learning_rate)
    own = {"M2PO": 0.5, "GSPO, old": 0.2, "(2, 3) (2, 3)": 0.1}.get(cell.loss.label, 0.0)
    condition = 0.004 * cell.updates_per_batch + 0.001 * cell.lag + noise + rate
    return (
        own + condition + (cell.seed - 4.5) / 1000 + {"addition": 0.4, "long": 0.6}.get(task, 0.0)
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    for preset, task in {(section.preset, section.task) for section in SECTIONS.values()}:
        cells = PRESETS[preset].at_rate(get_task(task).learning_rate).cells()
        finals = [(cell, right(cell, task)) for cell in cells]
        write_runs(folder / preset / task / "runs.csv", task, finals)
    rows = ["seed,N,replay,final,log_w_abs_mean,experts_differ"]
    for run in routing.runs():
        rows.append(f"{run.seed},{run.updates_per_batch},{run.replay},0.9,0.5,")
    gpu = PRESETS["gpu"].at_rate(get_task("columns").learning_rate).cells()
    write_runs(folder / "gpu" / "columns" / "runs.csv", "columns", [(gpu[2], 0.5), (gpu[0], 0.7)])
    (folder / "routing").mkdir()
    (folder / "routing" / "runs.csv").write_text("\n".join(rows) + "\n")
    return folder


def rows(table: str) -> dict[str, list[str]]:
    """Label -> the means; and whatever the lines above them are."""
    cells = [line.strip("| ").split(" | ") for line in table.splitlines()]
    return {label: [cell.split(" ")[0] for cell in row] for label, *row in cells if label != "---"}


def test_each_condition_is_in_its_column_and_each_loss_in_its_row(folder: Path) -> None:
    made = tables(folder)
    assert set(made) == {*SECTIONS, "routing", "larger-model"}
    staleness = rows(made["staleness"])
    assert len(staleness) == 1 + 1 + len(PRESETS["paper"].grids[1].losses)
    assert staleness["VESPO"] == ["1.7", "3.3", "6.5", "12.9", "25.7"]
    assert staleness["M2PO"] == ["51.7", "53.3", "56.5", "62.9", "75.7"]
    assert "| VESPO | 1.7 ± 0.2 (8) | 3.3 ± 0.2 (8) | 6.5 ± 0.2 | " in made["staleness"]
    further = rows(made["lag-and-rate"])
    assert further["TOPR"] == ["3.3", "25.7", "9.7", "32.1", "3.4", "25.8"]
    # The control is shown beside runs without lag, at its learning rate.
    assert further["on-policy"] == ["0.5", "0.5", "–", "–", "0.6", "0.6"]
    mismatch = rows(made["mismatch"])
    assert mismatch["GSPO"] == ["3.3", "4.3", "7.3", "3.8", "5.3", "13.3"]
    assert mismatch["GSPO, old"] == ["–", "24.3", "27.3", "23.8", "25.3", "33.3"]
    assert mismatch["on-policy"] == ["0.5", "–", "–", "–", "–", "–"]
    assert rows(made["mismatch-long"])["GSPO"] == ["63.3", "64.3", "67.3", "63.8", "65.3", "73.3"]
    addition = rows(made["mismatch-addition"])
    assert addition["GSPO"] == ["43.2", "44.2", "47.2", "43.7", "45.2", "53.2"]
    others = rows(made["mismatch-others"])
    assert others["M2PO"] == ["53.3", "54.3", "57.3", "53.8", "55.3", "63.3"]
    assert others["M2PO, old"] == ["–", "4.3", "7.3", "3.8", "5.3", "13.3"]
    assert not {"GSPO", "REINFORCE, old", "taper, old"} & set(others)
    kernel = rows(made["kernel"])
    assert len(kernel) == 1 + 1 + 9
    assert kernel["(2, 3) (2, 3)"] == ["35.7"]
    assert rows(made["variants"])["taper"] == rows(made["ablation"])["VESPO"] == ["3.3", "25.7"]


def test_of_the_larger_model_there_are_those_runs_that_were_made(
    folder: Path, tmp_path: Path
) -> None:
    made = tables(folder)["larger-model"].splitlines()[2:]
    assert made == ["| TOPR | 64 | 1 | 10.0 | 50.0 |", "| VESPO | 64 | 1 | 10.0 | 70.0 |"]
    (other,) = PRESETS["gpu"].cells()[:1]  # at another task's learning rate
    write_runs(path := tmp_path / "columns" / "runs.csv", "columns", [(other, 0.5)])
    with pytest.raises(ValueError, match=r"1 runs are not of the preset gpu, .* lr 0\.0003"):
        larger_model.table(path)


def test_other_runs_than_the_presets_are_refused(folder: Path, tmp_path: Path) -> None:
    path = folder / "kernel" / "uneven" / "runs.csv"
    changed = tmp_path / "kernel" / "uneven" / "runs.csv"
    changed.parent.mkdir(parents=True)
    changed.write_text(path.read_text().replace(",64,0,0.003", ",64,1,0.003", 1))
    with pytest.raises(ValueError, match=r"1 runs .* missing, .* at N 64, extra lag 0, lr 0.003, "):
        read_grid(tmp_path, "kernel", "uneven")
    changed.write_text(path.read_text() + path.read_text().splitlines()[-1].replace(",64,", ",8,"))
    with pytest.raises(ValueError, match=r"1 runs are not of the preset kernel, .* at N 8, "):
        read_grid(tmp_path, "kernel", "uneven")
    changed.write_text(path.read_text() + "uneven,VESPO,{},64\n")
    with pytest.raises(ValueError, match=r"csv:82: the row has more or fewer cells"):
        read_grid(tmp_path, "kernel", "uneven")


def test_the_figure_has_every_loss(folder: Path, tmp_path: Path) -> None:
    means = staleness(folder)
    (axes,) = staleness_figure(means).axes
    lines = {str(line.get_label()): list(line.get_ydata()) for line in axes.lines}
    assert len(axes.lines) == len(means) == len(PRESETS["paper"].grids[1].losses)
    assert lines["VESPO"] == pytest.approx([0.017, 0.033, 0.065, 0.129, 0.257])
    low, high = axes.get_ylim()
    assert all(low <= mean <= high for line in lines.values() for mean in line)
    draw(folder, tmp_path / "staleness.svg")
    assert "; M2PO 51.7, 53.3, 56.5, 62.9, 75.7; " in (tmp_path / "staleness.svg").read_text()
