"""The published protocol as a preset, and the published numbers beside others."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from vespo_openrlhf.eval.__main__ import main
from vespo_openrlhf.eval.benchmarks import BENCHMARKS as KNOWN
from vespo_openrlhf.eval.benchmarks.templates import find_template
from vespo_openrlhf.eval.commands.flags import add_run_options, run_of
from vespo_openrlhf.eval.commands.paper import BENCHMARKS, PUBLISHED, SPARSE
from vespo_openrlhf.eval.commands.presets import PRESETS, parse_with_preset
from vespo_openrlhf.eval.options import Options
from vespo_openrlhf.eval.running.plan import Run, plan


def asked(*words: str) -> Run:
    parser = argparse.ArgumentParser()
    add_run_options(parser)
    return run_of(parse_with_preset(parser, ["--model", "m", *words]))


def test_a_presets_numbers_are_defaults_and_the_command_line_wins() -> None:
    run = asked("--preset", "vespo")
    assert (run.options.temperature, run.options.top_p, run.options.max_tokens) == (
        1,
        0.7,
        15360,
    )
    assert run.benchmarks == "aime25:32,aime24:32,amc23:16,math500:4"
    changed = asked("--top-p", "1.0", "--preset", "vespo", "--benchmarks", "amc23:2")
    assert (changed.options.top_p, changed.options.max_tokens) == (1.0, 15360)
    assert changed.benchmarks == "amc23:2"
    assert asked().templates == {}


def test_the_presets_are_of_benchmarks_and_templates_that_exist() -> None:
    for preset in PRESETS.values():
        assert preset.templates.keys() <= KNOWN.keys()
        for name in preset.templates.values():
            find_template(name)


def test_a_problem_is_put_as_the_published_code_puts_it(tmp_path: Path) -> None:
    for name in ("aime25", "amc23"):
        rows = [{"problem": f"{name} {i}?", "answer": "1"} for i in range(KNOWN[name].rows or 0)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--preset", "vespo", "--benchmarks", "aime25:1,amc23:1", "--data-dir", str(tmp_path))
    endpoint = ("--endpoint", "http://127.0.0.1:1/v1")
    planned = plan(asked(*words, *endpoint))
    texts = {request.benchmark: request.prompt.text for request in reversed(planned.requests)}
    think = "Let's think step by step and output the final answer within \\boxed{}."
    reason = "Please reason step by step, and put your final answer within \\boxed{}."
    assert texts == {"aime25": f"aime25 0? {think}", "amc23": f"amc23 0? {reason}"}
    mine = plan(asked(*words, *endpoint, "--template", "plain"))
    assert mine.requests[0].prompt.text == "aime25 0?"


def test_the_published_averages_are_those_of_their_rows() -> None:
    """A slip of the pen in copying would show."""
    for row in PUBLISHED:
        assert sum(row.accuracies) / 4 == pytest.approx(row.average, abs=0.0501), row
    vespo = {
        row.n: row.average for row in PUBLISHED if (row.model, row.method) == (SPARSE, "VESPO")
    }
    assert vespo == {4: 70.0, 8: 70.0, 16: 67.3, 32: 64.5, 64: 61.8}
    assert len({(row.model, row.n, row.method) for row in PUBLISHED}) == len(PUBLISHED) == 31


def evaluation(folder: Path, top_p: float, names: tuple[str, ...] = BENCHMARKS) -> Path:
    preset = PRESETS["vespo"]
    folder.mkdir()
    repeats = {"aime25": 32, "aime24": 32, "amc23": 16, "math500": 4}
    manifest = {
        "settings": {"temperature": 1.0, "top_p": top_p, "max_tokens": 15360},
        "benchmarks": {n: {"template": find_template(preset.templates[n]).text} for n in names},
    }
    summary = {
        n: {"avg@k": (i + 1) / 10, "repeats": repeats[n], "problems": 30}
        for i, n in enumerate(names)
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "summary.json").write_text(json.dumps({"benchmarks": summary}))
    return folder


def test_the_papers_table_stands_above_yours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = evaluation(tmp_path / "mine", 0.7)
    other = evaluation(tmp_path / "other", 1.0, ("aime25", "math500"))
    assert main(["paper", str(mine), str(other), "--model", SPARSE, "--n", "8"]) == 0
    output = capsys.readouterr().out
    cells = [line.split() for line in output.splitlines()]
    assert ["Qwen3-30B-A3B-Base", "8", "VESPO", "44.3", "59.6", "91.4", "84.8", "70.0"] in cells
    assert sum(line[:1] == ["Qwen3-30B-A3B-Base"] for line in cells) == 7
    assert ["mine", "yours", "10.0", "20.0", "30.0", "40.0", "25.0"] in cells
    assert ["other", "yours", "10.0", "–", "–", "20.0", "–"] in cells
    assert "arXiv 2602.10693v3" in output
    assert "mine is measured otherwise" not in output
    assert "other is measured otherwise: top_p 1.0 (published: 0.7); no aime24; no amc23." in output


def test_what_the_published_evaluation_has_not_set_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a run writes its settings, with examples before each problem and fewer tokens to draw."""
    mine = evaluation(tmp_path / "mine", 0.7)
    manifest = json.loads((mine / "manifest.json").read_text())
    options = Options(top_p=0.7, max_tokens=15360, top_k=20, few_shot=4, system="Be brief.")
    (mine / "manifest.json").write_text(json.dumps(manifest | {"settings": options.as_json()}))
    assert main(["paper", str(mine)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "mine is measured otherwise: top_k 20 (published: not set); system Be brief. (published: "
        "not set); few_shot 4 (published: not set)."
    )


def test_without_a_folder_it_is_the_papers_table_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(PUBLISHED) + 1


def test_rows_that_the_paper_does_not_have_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["paper", "--model", "Qwen3-8B-Base", "--n", "64"])
    assert "of Qwen3-8B-Base the paper has N = 8 alone, not 64" in capsys.readouterr().err
