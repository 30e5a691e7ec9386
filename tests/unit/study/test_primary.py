"""The primary comparisons: complete or not at all, and corrected together."""

import csv
import random
from dataclasses import replace
from pathlib import Path

import pytest

from vespo_openrlhf.study.claims.contrasts import contrasts
from vespo_openrlhf.study.claims.outcomes import TASKS
from vespo_openrlhf.study.claims.primary import (
    PAIRS,
    all_contrasts,
    draw,
    drawn_from,
    read_all,
    read_outcomes,
    tables,
)
from vespo_openrlhf.study.presets import PRESETS
from vespo_openrlhf.study.tasks import get_task

from .conftest import COLUMNS, write_runs

GRIDS = PRESETS["primary"].grids
LOSSES = [loss.label for grid in GRIDS for loss in grid.losses]
SEEDS = GRIDS[0].seeds


def write_task(path: Path, means: dict[str, float], *, leave_out: str = "") -> None:
    """Runs that end at these means, give or take two points; without three of a loss."""
    task = path.parent.name
    rng = random.Random(task)
    cells = PRESETS["primary"].at_rate(get_task(task).learning_rate).cells()
    left_out = [cell for cell in cells if cell.loss.label == leave_out][:3]
    finals = [(c, means.get(c.loss.label, 0.8) + rng.gauss(0, 0.02)) for c in cells]
    write_runs(path, task, [(cell, final) for cell, final in finals if cell not in left_out])


def write_tasks(folder: Path, means: dict[str, float], *, leave_out: str = "") -> None:
    for task in TASKS:
        write_task(folder / "primary" / task / "runs.csv", means, leave_out=leave_out)
    (folder / "primary" / "agreement.csv").write_text("no run of the full stack\n")


def test_the_protocol_has_51_comparisons_corrected_as_one_family(tmp_path) -> None:
    write_tasks(tmp_path, {"pessimistic": 0.83, "SAPO": 0.4})
    found = contrasts(read_all(tmp_path), PAIRS)
    assert len(found) == 51
    by_name = {(c.task, c.ours, c.rival): c for c in found}
    assert by_name["long", "pessimistic", "VESPO"].found.verdict() == "above"
    assert by_name["long", "VESPO", "SAPO"].found.verdict() == "above"
    level = by_name["uneven", "VESPO", "TOPR"]
    assert level.found.verdict() == "open"
    assert level.found.holm_p >= min(1, 2 * level.found.p)
    assert by_name["uneven", "pessimistic", "TOPR"].not_worse < 0.001
    assert all_contrasts(tmp_path)["contrasts"].count("| long | pessimistic |") == 6
    short = tables(tmp_path)
    assert short["leads"].count(", above") == sum(c.found.verdict() == "above" for c in found)
    assert short["finals"].splitlines()[2].startswith("| on-policy | 80.")
    assert short["finals"].splitlines()[3].startswith("| pessimistic | 8")


def test_the_figure_says_what_it_shows(tmp_path) -> None:
    write_tasks(tmp_path, {"SAPO": 0.4})
    draw(tmp_path, tmp_path / "finals.svg")
    drawn = (tmp_path / "finals.svg").read_text()
    assert "; long: on-policy " in drawn
    assert drawn_from(read_all(tmp_path)) in drawn


def test_runs_that_are_not_complete_are_no_evidence(tmp_path) -> None:
    write_tasks(tmp_path, {}, leave_out="TOPR")
    with pytest.raises(
        ValueError, match=r"3 runs .* missing, among them TOPR \{\} at N 64, .* on seed 1001"
    ):
        read_all(tmp_path)
    with pytest.raises(ValueError, match="cannot read"):
        read_all(tmp_path / "nowhere")


def test_the_control_may_have_fewer_seeds_and_says_so(tmp_path) -> None:
    write_tasks(tmp_path, {}, leave_out="on-policy")
    assert tables(tmp_path)["finals"].splitlines()[2].count(", 61 seeds |") == 3


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("seed", "5000", "1 runs of the preset primary are missing"),
        ("N", "8", "1 runs of the preset primary are missing"),
        ("task", "addition", "of another task"),
        ("learning_rate", "0.1", "1 runs of the preset primary are missing"),
        ("options", '{"c1_pos": 1}', "1 runs of the preset primary are missing"),
        ("final", "nan", "not finite"),
    ],
)
def test_other_runs_than_the_protocols_are_refused(tmp_path, column, value, message) -> None:
    path = tmp_path / "long" / "runs.csv"
    write_task(path, {})
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[-1][column] = value
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ValueError, match=message):
        read_outcomes(path, "long")


def test_a_run_that_failed_counts_as_nothing_right(tmp_path) -> None:
    path = tmp_path / "long" / "runs.csv"
    write_task(path, {})
    *lines, last = path.read_text().splitlines()
    words = last.split(",")
    words[-2] = ""
    path.write_text("\n".join([*lines, ",".join(words)]) + "\n")
    last_loss = LOSSES[-1]
    outcome = read_outcomes(path, "long")[last_loss][SEEDS[-1]]
    assert (outcome.final, outcome.collapsed) == (0.0, True)


def test_not_worse_is_not_said_of_a_loss_that_has_collapsed(tmp_path) -> None:
    for task in TASKS:
        write_task(tmp_path / task / "runs.csv", {"taper": 0.807})
    outcomes = {task: read_outcomes(tmp_path / task / "runs.csv", task) for task in TASKS}
    before = {(c.task, c.ours, c.rival): c.verdict() for c in contrasts(outcomes, PAIRS)}
    assert before["long", "taper", "TOPR"] == "not worse"
    taper = dict(outcomes["long"]["taper"])
    taper[SEEDS[0]] = replace(taper[SEEDS[0]], collapsed=True)
    changed = outcomes | {"long": dict(outcomes["long"]) | {"taper": taper}}
    after = contrasts(changed, PAIRS)
    assert {
        c.verdict() for c in after if (c.task, c.ours, c.rival) == ("long", "taper", "TOPR")
    } == {"open"}
