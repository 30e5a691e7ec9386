"""The study's pages say what its committed runs say."""

import csv
import re
import shutil
from pathlib import Path

import pytest

from vespo_openrlhf.study.__main__ import main
from vespo_openrlhf.study.claims.pages import FIGURES, PAGES, remade
from vespo_openrlhf.study.claims.primary import PAIRS, drawn_from, read_all

STUDY = Path(__file__).parents[3] / "docs" / "study"
BLOCK = re.compile(r"<!-- claims: ([\w-]+) -->\n(.*?)<!-- /claims -->", re.S)


def read(page: str) -> str:
    return (STUDY / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_the_numbers_of_its_runs(page: str) -> None:
    text = remade(STUDY, page)
    assert text == read(page), "run: python -m vespo_openrlhf.study claims docs/study"


def test_the_figure_was_drawn_from_the_runs() -> None:
    drawn = (STUDY / "primary" / "finals.svg").read_text(encoding="utf-8")
    assert f"<dc:title>{drawn_from(read_all(STUDY))}</dc:title>" in drawn


@pytest.mark.parametrize("page", PAGES)
def test_no_interval_stands_outside_the_tables(page: str) -> None:
    assert "±" not in BLOCK.sub("", read(page))


def test_a_row_worked_out_another_way() -> None:
    stats = pytest.importorskip("scipy.stats")
    tests = {}
    for task in ("addition", "uneven", "long"):
        finals: dict[str, dict[int, float]] = {}
        with open(STUDY / "primary" / task / "runs.csv", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                finals.setdefault(row["loss"], {})[int(row["seed"])] = float(row["final"])
        for ours, rival in PAIRS:
            pairs = [[finals[loss][seed] for seed in range(1001, 1065)] for loss in (ours, rival)]
            tests[task, ours, rival] = stats.ttest_rel(*pairs)
    ps = sorted(test.pvalue for test in tests.values())
    assert len(ps) == 51
    # Holm: the k-th smallest of 51 times what is left of them, and never less than the one before.
    wanted = tests["addition", "pessimistic", "TOPR"]
    place = ps.index(wanted.pvalue)
    corrected = max((51 - i) * p for i, p in enumerate(ps[: place + 1]))
    (table,) = [body for name, body in BLOCK.findall(read("primary.md")) if name == "contrasts"]
    (row,) = [
        line.split(" | ")
        for line in table.splitlines()
        if line.startswith("| addition | pessimistic | TOPR |")
    ]
    interval = wanted.confidence_interval()
    middle, half = (interval.high + interval.low) / 2, (interval.high - interval.low) / 2
    assert row[3] == f"{100 * middle:.1f} ± {100 * half:.1f}"
    assert row[4] == f"{wanted.pvalue:.3f}"
    assert row[5] == f"{corrected:.3f}"
    assert row[7].startswith("below")


def test_the_command_writes_the_pages(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "study"
    shutil.copytree(STUDY, folder)
    for figure in FIGURES:
        (folder / figure).unlink()
    for page in ("README.md", "primary.md"):
        emptied = BLOCK.sub(r"<!-- claims: \1 -->\n<!-- /claims -->", read(page))
        (folder / page).write_text(emptied, encoding="utf-8")
    runs = folder / "kernel" / "uneven" / "runs.csv"
    with open(runs, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[-1]["final"] = "0.999"
    with open(runs, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    assert main(["claims", str(folder)]) == 0
    changed = dict(BLOCK.findall((folder / "grid.md").read_text(encoding="utf-8")))
    same = dict(BLOCK.findall(read("grid.md")))
    assert [name for name in same if same[name] != changed[name]] == ["kernel"]
    for page in ("README.md", "primary.md"):
        assert (folder / page).read_text(encoding="utf-8") == read(page)
    for figure in FIGURES:
        assert (folder / figure).read_bytes() == (STUDY / figure).read_bytes()

    renamed = read("grid.md").replace("claims: kernel", "claims: kernels")
    (folder / "grid.md").write_text(renamed, encoding="utf-8")
    assert main(["claims", str(folder)]) == 2
    assert "grid.md: the page has markers for" in capsys.readouterr().err
    # All pages or none: the first page was not yet written when the last could not be made.
    (folder / "README.md").write_text(
        stale := "<!-- claims: finals -->\n<!-- /claims -->\n"
        "<!-- claims: leads -->\n<!-- /claims -->\n"
    )
    assert main(["claims", str(folder)]) == 2
    assert (folder / "README.md").read_text(encoding="utf-8") == stale
    capsys.readouterr()
    runs.unlink()
    assert main(["claims", str(folder)]) == 2
    assert "cannot read" in capsys.readouterr().err
