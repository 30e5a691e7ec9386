import json
import re
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vespo_openrlhf.eval.__main__ import main as command
from vespo_openrlhf.eval.commands.report import main
from vespo_openrlhf.eval.report.figures import wilson
from vespo_openrlhf.eval.report.folders import Generation, read_folders
from vespo_openrlhf.eval.report.heatmap import easiest_first, kind
from vespo_openrlhf.eval.report.samples import choose

MakeFolder = Callable[..., Path]


def generation(problem: str, repeat: int, correct: bool, **more: Any) -> Generation:
    fields = {"reason": "correct" if correct else "wrong", "tokens": 10, "cut": False, **more}
    return Generation(offset=0, id=problem, repeat=repeat, correct=correct, **fields)


def data_of(html: str) -> dict[str, Any]:
    text = re.search(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    assert text is not None
    data: dict[str, Any] = json.loads(text[1])
    return data


def titles(html: str) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", html)


def test_one_evaluation(evaluation_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluation_folder()
    assert main([str(folder)]) == 0
    page = folder / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    html = page.read_text()
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", html) == [
        "Accuracy", "More than one try", "Response length", "Problems", "Generations",
        "What was run",
    ]  # fmt: skip
    assert "50.0 [40.0, 60.0] @8" in html
    assert "aime24: pass@k and maj@k" in titles(html)
    assert "math500: pass@k and maj@k" not in titles(html)  # one repeat: there is no curve
    assert "156 of 156 generations are in this page, each of them whole." in html
    assert html.count('class="hit"') == 12 + 60
    data = data_of(html)
    assert len(data["samples"]) == 156
    assert len(data["problems"]) == 72
    right = next(sample for sample in data["samples"] if sample["right"])
    assert right["parts"][1] == {"mark": data["problems"][right["problem"]]["gold"]}


def test_side_by_side(evaluation_folder: MakeFolder, tmp_path: Path) -> None:
    folders = [
        evaluation_folder("base", benchmarks={"aime24": (6, 4), "gsm8k": (5, 1)}),
        evaluation_folder(
            "tuned", benchmarks={"aime24": (6, 4)}, right_below=0.8, settings={"max_tokens": 9}
        ),
    ]
    page = tmp_path / "both.html"
    assert main([*map(str, folders), "--out", str(page)]) == 0
    html = page.read_text()
    assert {"aime24 · base", "aime24 · tuned", "gsm8k · base"} <= set(titles(html))
    assert "gsm8k · tuned" not in titles(html)
    assert '<tr class="different"><th scope="row"><code>max_tokens</code></th>' in html
    assert data_of(html)["runs"] == ["base", "tuned"]


def test_a_big_run_makes_a_page_of_bounded_size_that_says_what_is_left_out(
    evaluation_folder: MakeFolder,
) -> None:
    folder = evaluation_folder(
        benchmarks={"math500": (300, 5)}, response="x" * 30_000 + "\\boxed{{{answer}}}"
    )
    assert main([str(folder), "--samples", "100"]) == 0
    page = folder / "report.html"
    assert page.stat().st_size < 1.2e6  # 45 MB of responses
    html = page.read_text()
    assert "100 of 1,500 generations are in this page" in html
    assert "100 of them lost their middle: about 6,000 characters" in html
    assert len(data_of(html)["samples"]) == 100


def test_without_samples(evaluation_folder: MakeFolder) -> None:
    folder = evaluation_folder()
    assert main([str(folder), "--samples", "0"]) == 0
    assert "Generations</h2>" not in (folder / "report.html").read_text()


def test_records_that_are_gone_leave_the_summary(evaluation_folder: MakeFolder) -> None:
    folder = evaluation_folder(benchmarks={"aime24": (4, 4), "gsm8k": (4, 1)})
    (folder / "aime24" / "generations.jsonl").unlink()
    assert main([str(folder)]) == 0
    html = (folder / "report.html").read_text()
    assert "50.0 [40.0, 60.0] @4" in html
    assert "gsm8k: right answers of each problem" in html
    assert "aime24: right answers of each problem" not in html
    (folder / "gsm8k" / "generations.jsonl").unlink()
    assert main([str(folder)]) == 0
    assert "Problems</h2>" not in (folder / "report.html").read_text()


def test_what_is_not_finished_or_not_judged_is_said(evaluation_folder: MakeFolder) -> None:
    folder = evaluation_folder()
    summary = json.loads((folder / "summary.json").read_text())
    del summary["benchmarks"]["math500"]
    summary["benchmarks"]["aime24"]["unverified_rate"] = 0.25
    (folder / "summary.json").write_text(json.dumps(summary))
    assert main([str(folder)]) == 0
    html = (folder / "report.html").read_text()
    assert "is not finished on math500" in html
    assert "25.0 % of evaluation on aime24 could not be judged" in html


def test_only_what_every_summary_has_is_needed(evaluation_folder: MakeFolder) -> None:
    folder = evaluation_folder(benchmarks={"aime24": (3, 1)})
    summary = {"problems": 3, "repeats": 1, "avg@k": 0.5, "interval": [0.1, 0.9]}
    (folder / "summary.json").write_text(json.dumps({"benchmarks": {"aime24": summary}}))
    records = folder / "aime24" / "generations.jsonl"
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    for line in lines:
        line.update(tokens=None, finish_reason=None, extracted=None)
    records.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"torn')
    assert main([str(folder)]) == 0
    assert main([str(folder), "--markdown"]) == 0


def test_markdown(
    evaluation_folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [evaluation_folder("base_1"), evaluation_folder("b|2", benchmarks={"aime24": (6, 4)})]
    assert main([*map(str, folders), "--markdown"]) == 0
    text = capsys.readouterr().out
    assert "| benchmark | problems | base\\_1 | b\\|2 |\n| :-- | --: | --: | --: |" in text
    assert "| aime24 | 6 / 12 | 50.0 [40.0, 60.0] @8 | 50.0 [40.0, 60.0] @4 |" in text
    assert "| math500 | 60 | 50.0 [40.0, 60.0] @1 | – |" in text
    assert "model `a/model`, temperature 1.0, max_tokens 4096, vllm 0.29.0." in text
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert not list(folders[0].glob("*.html"))
    out = tmp_path / "new" / "table.md"
    assert main([*map(str, folders), "--markdown", "--out", str(out)]) == 0
    assert out.read_text() == text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", None, "running its command again"),
        ("manifest.json", None, "running its command again"),
        ("summary.json", "{", "is not JSON"),
        ("summary.json", "[]", "is not a JSON object"),
        ("summary.json", "{}", "holds no benchmarks"),
    ],
)
def test_a_folder_that_is_no_evaluation_is_refused(
    evaluation_folder: MakeFolder, name: str, content: str | None, message: str
) -> None:
    folder = evaluation_folder()
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        main([str(folder)])


def test_a_page_that_cannot_be_written_is_a_clear_message(
    evaluation_folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = evaluation_folder()
    out = folder / "summary.json" / "x.html"
    assert command(["report", str(folder), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vespo eval report: error: ")
    assert str(folder / "summary.json") in error


def test_records_are_found_again_by_their_place(evaluation_folder: MakeFolder) -> None:
    folder = evaluation_folder(response="é\u2028 {answer}")
    (evaluation,) = read_folders([folder])
    found = evaluation.generations("aime24")
    chosen = [found[40], found[3]]
    records = evaluation.records("aime24", chosen)
    assert [(r["id"], r["repeat"]) for r in records] == [(g.id, g.repeat) for g in chosen]


class TestChoice:
    def test_a_right_and_a_wrong_one_of_every_problem_come_first(self) -> None:
        all_of_them = [generation(f"p{p}", r, r == 9) for p in range(10) for r in range(10)]
        chosen = choose(all_of_them, 30)
        assert len(chosen) == 30
        for problem in range(10):
            verdicts = {g.correct for g in chosen if g.id == f"p{problem}"}
            assert verdicts == {True, False}

    @given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), max_size=60), st.integers(0, 40))
    def test_it_is_as_many_as_asked_for_and_each_once(
        self, drawn: list[tuple[int, bool]], limit: int
    ) -> None:
        found = [generation(f"p{p}", r, correct) for r, (p, correct) in enumerate(drawn)]
        chosen = choose(found, limit)
        assert len(chosen) == min(limit, len(found))
        assert len(set(chosen)) == len(chosen)
        assert set(chosen) <= set(found)


class TestHeatmap:
    def test_kinds(self) -> None:
        assert kind(generation("p", 0, True, cut=True)) == "right"
        assert kind(generation("p", 0, False, cut=True)) == "cut"
        assert kind(generation("p", 0, False)) == "wrong"
        assert kind(generation("p", 0, False, reason="no_answer")) == "none"

    def test_one_order_for_all_easiest_first(self) -> None:
        first = {"a": [generation("a", 0, False)], "b": [generation("b", 0, True)]}
        second = {"c": [generation("c", 0, True)], "b": [generation("b", 0, True)]}
        assert easiest_first([first, second]) == ["b", "c", "a"]


@pytest.mark.parametrize(("right", "count"), [(0, 20), (7, 20), (20, 20), (150, 200)])
def test_the_interval_of_a_share_is_wilsons(right: int, count: int) -> None:
    """Its ends are the p for which the observed share lies that many standard errors away."""
    z = NormalDist().inv_cdf(0.975)
    for p in wilson(right, count):
        assert (right / count - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / count, abs=1e-12)


def test_a_secret_in_an_old_manifest_is_not_on_the_page(evaluation_folder: MakeFolder) -> None:
    options = {"hf_token": "HFSECRET", "max_model_len": 77}
    folder = evaluation_folder(settings={"engine_options": options})
    assert main([str(folder)]) == 0
    html = (folder / "report.html").read_text()
    assert "hf_token" in html
    assert "HFSECRET" not in html
    assert "77" in html
