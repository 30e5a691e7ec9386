"""The primary comparisons: complete or not at all, and corrected together."""

import csv
import random
from pathlib import Path

import pytest
from scipy import stats

from vespo_openrlhf.study.__main__ import main
from vespo_openrlhf.study.presets import PRESETS
from vespo_openrlhf.study.primary import (
    TASKS,
    contrasts,
    p_not_worse,
    read_outcomes,
)

GRIDS = PRESETS["primary"].grids
LOSSES = [loss.label for grid in GRIDS for loss in grid.losses]
SEEDS = GRIDS[0].seeds


def write_runs(path: Path, means: dict[str, float], *, leave_out: int = 0) -> None:
    """Runs that end at these means, give or take two points."""
    path.parent.mkdir(parents=True)
    rng = random.Random(path.parent.name)
    rows = [
        {"loss": loss, "seed": seed, "final": means.get(loss, 0.8) + rng.gauss(0, 0.02)}
        for loss in LOSSES
        for seed in SEEDS
    ]
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["loss", "seed", "final", "best", "collapsed"])
        writer.writeheader()
        for row in rows[leave_out:]:
            writer.writerow(row | {"best": row["final"] + 0.01, "collapsed": False})


def test_the_protocol_has_51_comparisons_corrected_as_one_family(tmp_path, capsys) -> None:
    for task in TASKS:
        write_runs(tmp_path / task / "runs.csv", {"pessimistic": 0.83, "SAPO": 0.4})
    found = contrasts({task: read_outcomes(tmp_path / task / "runs.csv") for task in TASKS})
    assert len(found) == 51
    by_name = {(c.task, c.ours, c.rival): c for c in found}
    assert by_name["long", "pessimistic", "VESPO"].found.verdict() == "above"
    assert by_name["long", "VESPO", "SAPO"].found.verdict() == "above"
    level = by_name["uneven", "VESPO", "TOPR"]
    assert level.found.verdict() == "open"
    assert level.found.holm_p >= min(1, 2 * level.found.p)
    assert by_name["uneven", "pessimistic", "TOPR"].not_worse < 0.001
    assert main(["primary", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("| long | pessimistic |") == 6


def test_runs_that_are_not_complete_are_no_evidence(tmp_path, capsys) -> None:
    for task in TASKS:
        write_runs(tmp_path / task / "runs.csv", {}, leave_out=3)
    assert main(["primary", str(tmp_path)]) == 2
    assert "3 of the protocol's runs are missing" in capsys.readouterr().err
    assert main(["primary", str(tmp_path / "nowhere")]) == 2


def test_not_worse_is_a_one_sided_test_against_the_margin() -> None:
    differences = [-0.004, 0.01, 0.002, -0.012, 0.006]
    expected = stats.ttest_1samp(differences, -0.01, alternative="greater").pvalue
    assert p_not_worse(differences) == pytest.approx(expected)
    assert p_not_worse([0.0, 0.0]) == 0
    assert p_not_worse([-0.01, -0.01]) == 1
