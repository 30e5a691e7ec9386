"""The study's pages say what its committed runs say."""

import csv
import re
import shutil
from pathlib import Path

import pytest

from vespo_openrlhf.study.__main__ import main
from vespo_openrlhf.study.claims import FIGURE, PAGES, remade
from vespo_openrlhf.study.primary import drawn_from, read_all

STUDY = Path(__file__).parents[3] / "docs" / "study"
BLOCK = re.compile(r"<!-- claims: ([\w-]+) -->\n(.*?)<!-- /claims -->", re.S)


FIRST = "first.md"


def read(page: str) -> str:
    return (STUDY / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_has_the_numbers_of_its_runs(page: str) -> None:
    text = remade(STUDY, page)
    assert text == read(page), "run: python -m vespo_openrlhf.study claims docs/study"


def test_the_figure_was_drawn_from_the_runs() -> None:
    drawn = (STUDY / FIGURE).read_text(encoding="utf-8")
    assert f"<dc:title>{drawn_from(read_all(STUDY))}</dc:title>" in drawn


@pytest.mark.parametrize("page", PAGES)
def test_no_interval_stands_outside_the_tables(page: str) -> None:
    assert "±" not in BLOCK.sub("", read(page))


def test_a_row_worked_out_another_way() -> None:
    stats = pytest.importorskip("scipy.stats")
    finals: dict[str, dict[int, float]] = {}
    with open(STUDY / "paper" / "runs.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["N"] == "64" and int(row["seed"]) <= 8:
                finals.setdefault(row["loss"], {})[int(row["seed"])] = float(row["final"])
    rivals = ["GRPO", "GSPO", "SAPO", "REINFORCE", "CISPO", "TOPR", "GMPO", "TIS"]
    ours = [finals["VESPO"][seed] for seed in range(1, 9)]
    tests = {
        name: stats.ttest_rel(ours, [finals[name][seed] for seed in range(1, 9)]) for name in rivals
    }
    # GSPO's p is the fifth smallest of eight, so it is multiplied by 4, and GRPO's next by 3;
    # Holm's do not fall, so both have GSPO's.
    ps = sorted(test.pvalue for test in tests.values())
    assert ps.index(tests["GSPO"].pvalue) == 4
    assert ps.index(tests["GRPO"].pvalue) == 5
    (table,) = [body for name, body in BLOCK.findall(read(FIRST)) if name == "published-64"]
    (row,) = [line.split(" | ") for line in table.splitlines() if line.startswith("| GRPO")]
    interval = tests["GRPO"].confidence_interval()
    middle, half = (interval.high + interval.low) / 2, (interval.high - interval.low) / 2
    assert row[4] == f"{100 * middle:.1f} ± {100 * half:.1f}"
    assert row[5] == f"{tests['GRPO'].pvalue:.3f}"
    assert row[6] == f"{4 * tests['GSPO'].pvalue:.3f}"
    assert row[8].startswith("open")


def test_the_command_writes_the_pages(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "study"
    shutil.copytree(STUDY, folder, ignore=shutil.ignore_patterns("figures"))
    (folder / FIGURE).unlink()
    for page in ("README.md", "primary.md"):
        emptied = BLOCK.sub(r"<!-- claims: \1 -->\n<!-- /claims -->", read(page))
        (folder / page).write_text(emptied, encoding="utf-8")
    runs = folder / "paper" / "runs.csv"
    lines = runs.read_text(encoding="utf-8").splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if line.startswith("GRPO,") and ",64," in line)
    cells = next(csv.reader([lines[place]]))
    lines[place] = lines[place].replace(cells[10], "0.999")
    runs.write_text("".join(lines), encoding="utf-8")
    assert main(["claims", str(folder)]) == 0
    changed = dict(BLOCK.findall((folder / FIRST).read_text(encoding="utf-8")))
    same = dict(BLOCK.findall(read(FIRST)))
    assert [name for name in same if same[name] != changed[name]] == ["published-64"]

    for page in ("README.md", "primary.md"):
        assert (folder / page).read_text(encoding="utf-8") == read(page)
    assert (folder / FIGURE).read_bytes() == (STUDY / FIGURE).read_bytes()

    renamed = read(FIRST).replace("claims: topr", "claims: topper")
    (folder / FIRST).write_text(renamed, encoding="utf-8")
    assert main(["claims", str(folder)]) == 2
    assert "first.md: the page has markers for" in capsys.readouterr().err
    # All pages or none: the second page was not yet written when the third could not be made.
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
