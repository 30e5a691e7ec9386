"""`vespo eval compare` on records written here: figures, warnings, refusals, renderings."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from vespo_openrlhf.eval.__main__ import main as command
from vespo_openrlhf.eval.commands.compare import main
from vespo_openrlhf.eval.report import comparison as module
from vespo_openrlhf.eval.report.comparison import compare


def write_run(folder: Path, verdicts, *, benchmark="aime24", settings=None, **fields) -> Path:
    """A run's folder; `verdicts` maps a problem's id to the verdicts of its repeats."""
    records = folder / benchmark / "generations.jsonl"
    records.parent.mkdir(parents=True)
    with open(records, "w") as file:
        for problem, samples in verdicts.items():
            for repeat, correct in enumerate(samples):
                record = {
                    "benchmark": benchmark,
                    "id": problem,
                    "repeat": repeat,
                    "correct": bool(correct),
                    "gold": "7",
                    "prompt_hash": "same",
                    "response": "long",
                    "verifier": "1",
                }
                file.write(json.dumps(record | fields) + "\n")
    manifest = {
        "model": folder.name,
        "settings": settings or {"temperature": 1.0},
        "benchmarks": {benchmark: {"checksum": "c"}},
        "versions": {"vllm": "1"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def single(flips: str) -> dict[str, list[int]]:
    return {f"p{i:02}": [int(flip)] for i, flip in enumerate(flips)}


def test_one_sample_each_gives_mcnemar_and_the_flips(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", single("1100000000"))
    b = write_run(tmp_path / "b", single("0111111100"))
    (d,) = compare([a, b]).differences
    assert d.problems == 10
    assert d.before.value == 0.2
    assert d.after.value == 0.7
    assert d.difference == pytest.approx(0.5)
    assert [flip.id for flip in d.gained] == ["p02", "p03", "p04", "p05", "p06", "p07"]
    assert [flip.id for flip in d.lost] == ["p00"]
    assert d.mcnemar == pytest.approx(stats.binomtest(1, 7, 0.5).pvalue)
    assert d.p_value == pytest.approx(d.mcnemar)
    assert d.p_value_holm is None
    low, high = d.interval
    assert low < 0.5 < high


def test_repeats_may_differ_between_the_runs(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", {"x": [0, 0, 1], "y": [1, 1, 1]})
    b = write_run(tmp_path / "b", {"x": [1, 0], "y": [1, 1]})
    (d,) = compare([a, b]).differences
    assert d.difference == pytest.approx((0.5 - 1 / 3) / 2)
    assert d.p_value == 1.0  # one problem differs: either sign is as far
    assert d.mcnemar is None
    assert not d.gained
    assert (d.before.repeats, d.after.repeats) == (3, 2)


def test_the_test_takes_as_many_samples_of_both_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problems = [f"p{i:02}" for i in range(12)]
    a = write_run(tmp_path / "a", {p: [0, 0, 1, 1] for p in problems})
    b = write_run(tmp_path / "b", {p: [1, 0] for p in problems})
    (d,) = compare([a, b]).differences
    assert (d.difference, d.tested_repeats) == (0, 2)
    assert d.p_value == pytest.approx(2 / 2**12)  # the first two of each: 0 against 1
    assert main([str(a), str(b)]) == 0
    assert "(sign-flip permutation of the first 2 samples of each)" in capsys.readouterr().out
    assert main([str(a), str(b), "--markdown"]) == 0
    assert "the test takes the first of each: 2 (aime24)." in capsys.readouterr().out


SIMULATIONS = 1_000
ERROR = 3 * (0.05 * 0.95 / SIMULATIONS) ** 0.5


@pytest.mark.parametrize("problems", ["equally hard", "the same", "of its own"])
@pytest.mark.parametrize("mean", [0.03, 0.09, 0.5, 0.91])
@pytest.mark.parametrize("repeats", [(32, 32), (32, 1), (32, 4)])
def test_equally_good_runs_seldom_differ(
    repeats: tuple[int, int], mean: float, problems: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Type I error at 0.05 with 30 problems, as they are sampled from a population.

    All problems are equally hard, or the same ones are hard for both runs, or each run is good at
    problems of its own.
    """
    # The intervals are not looked at, and would take most of the time.
    monkeypatch.setattr(module, "bootstrap_interval", lambda values: (0.0, 1.0))
    monkeypatch.setattr(module, "difference_intervals", lambda *a, **k: [(0.0, 1.0)])
    rng = np.random.default_rng([*repeats, round(100 * mean), len(problems)])
    # A sample is one of two shared dicts: what is compared is only their verdict.
    verdicts = np.array([{"correct": False}, {"correct": True}])

    def run(name: str, accuracies: np.ndarray, k: int) -> module._Run:
        right = (rng.random((len(accuracies), k)) < accuracies[:, None]).astype(int)
        problems = {str(i): list(row) for i, row in enumerate(verdicts[right])}
        return module._Run(name, {}, {"b": problems})

    found = 0
    for _ in range(SIMULATIONS):
        first, second = rng.beta(1.5 * mean, 1.5 * (1 - mean), size=(2, 30))
        if problems == "equally hard":
            first = second = np.full(30, mean)
        elif problems == "the same":
            second = first
        runs = run("a", first, repeats[0]), run("b", second, repeats[1])
        difference, _ = module._difference("b", *runs)
        found += difference.p_value <= 0.05
    assert found / SIMULATIONS <= 0.05 + ERROR


def test_pairing_narrows_the_interval(tmp_path: Path) -> None:
    problems = {f"p{i}": [i % 2, i % 2, i % 2, 0] for i in range(40)}
    better = {p: [*samples[:3], samples[0]] for p, samples in problems.items()}
    runs = [write_run(tmp_path / "a", problems), write_run(tmp_path / "b", better)]
    (d,) = compare(runs).differences
    paired = d.interval[1] - d.interval[0]
    assert paired < 0.5 * (d.before.interval[1] - d.before.interval[0])
    assert d.interval[0] > 0
    assert d.p_value < 0.001


def test_three_runs_are_compared_with_the_first_and_adjusted(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "a", single("0" * 20)),
        write_run(tmp_path / "b", single("1" * 8 + "0" * 12)),
        write_run(tmp_path / "c", single("1" * 5 + "0" * 15)),
    ]
    first, second = compare(runs).differences
    assert (first.after.run, second.after.run) == (str(runs[1]), str(runs[2]))
    assert first.p_value_holm == pytest.approx(2 * 2 / 2**8)
    assert second.p_value_holm == pytest.approx(2 / 2**5)


def test_it_warns_of_what_is_not_the_same(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", single("110"), settings={"sampling": {"temperature": 1.0}})
    b = write_run(
        tmp_path / "b",
        single("1110"),
        settings={"sampling": {"temperature": 0.6}},
        gold="8",
        verifier="2",
    )
    warnings = compare([a, b]).warnings
    assert f"settings.sampling.temperature: 1.0 in {a}, 0.6 in {b}" in warnings[0]
    assert any("has 3 problems" in w and "3 that both have" in w for w in warnings)
    assert any("3 of 3 problems have another gold answer" in w for w in warnings)
    assert any("vespo eval score" in w for w in warnings)
    assert not compare([a, a]).warnings


def test_other_orders_of_choices_are_no_other_data(tmp_path: Path) -> None:
    runs = []
    for seed in (0, 1):
        run = write_run(
            tmp_path / f"{seed}", single("110"), settings={"seed": seed}, gold=str(seed),
            prompt_hash=str(seed),
        )  # fmt: skip
        manifest = json.loads((run / "manifest.json").read_text())
        manifest["benchmarks"]["aime24"]["choice_order"] = "by seed and repeat"
        (run / "manifest.json").write_text(json.dumps(manifest))
        runs.append(run)
    (warning,) = compare(runs).warnings
    assert "settings.seed: 0 in " in warning


def test_limited_runs_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a", single("110"))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["benchmarks"]["aime24"]["of"] = 30
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert main([str(run), str(run)]) == 0
    assert "aime24: first 3 problems in both" in capsys.readouterr().out
    assert main([str(run), str(run), "--markdown"]) == 0
    assert "| aime24 | first 3 |" in capsys.readouterr().out


def test_a_run_without_a_manifest_is_compared_with_a_warning(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", single("110"))
    b = write_run(tmp_path / "b", single("111"))
    (b / "manifest.json").unlink()
    assert compare([a, b]).warnings == (f"{b} has no manifest.json, so its settings are not known",)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", single("110"))
    with pytest.raises(ValueError, match="two runs or more"):
        compare([a])
    with pytest.raises(ValueError, match=r"holds no <benchmark>/generations.jsonl"):
        compare([a, tmp_path / "nothing"])
    other = write_run(tmp_path / "other", single("110"), benchmark="math500")
    with pytest.raises(ValueError, match="no benchmark in common"):
        compare([a, other])
    apart = write_run(tmp_path / "apart", {"q1": [1], "q2": [0]})
    with pytest.raises(ValueError, match=r"aime24: .* no problem in common"):
        compare([a, apart])
    uneven = write_run(tmp_path / "uneven", {"p00": [1, 1], "p01": [0]})
    with pytest.raises(ValueError, match="fewer than 2 samples"):
        compare([a, uneven])
    torn = write_run(tmp_path / "torn", single("110"))
    records = torn / "aime24" / "generations.jsonl"
    records.write_text(records.read_text()[:-20])
    with pytest.raises(ValueError, match=r"line 3, is not JSON .*: if the run was interrupted"):
        compare([a, torn])


def test_a_benchmark_that_one_run_lacks_is_left_out_with_a_warning(tmp_path: Path) -> None:
    a = write_run(tmp_path / "a", single("110"))
    b = write_run(tmp_path / "b", single("111"))
    write_run(tmp_path / "more", single("1"), benchmark="math500")
    (tmp_path / "more" / "math500").rename(b / "math500")
    comparison = compare([a, b])
    assert [d.benchmark for d in comparison.differences] == ["aime24"]
    assert comparison.warnings == (f"only one of {a} and {b} has math500",)


@pytest.fixture
def two_runs(tmp_path: Path) -> list[str]:
    a = write_run(tmp_path / "a", single("11" + "0" * 18))
    b = write_run(tmp_path / "b", single("0" + "1" * 9 + "0" * 10), settings={"temperature": 0.5})
    return [str(a), str(b)]


def test_text(two_runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*two_runs, "--flips", "2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("warning: settings differ, settings.temperature: 1.0 in ")
    assert "aime24: 20 problems in both" in out
    assert "difference +35.0 points [+" in out
    assert "p 0.039 (sign-flip permutation), 0.039 (McNemar)" in out
    assert "gained 8: p02, p03, and 6 more" in out
    assert "lost 1: p00\n" in out


def test_markdown(two_runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*two_runs, "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("|")]
    assert len(rows) == 4  # head, rule, the first run, the second
    assert len({row.count("|") for row in rows}) == 1
    assert "8 / 1" in rows[3]
    assert any("Warning" in line for line in lines)


def test_markdown_of_three_runs_keeps_each_benchmark_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = []
    for name, flips in (("a", "0001"), ("b", "0011"), ("c", "0111")):
        runs.append(write_run(tmp_path / name, single(flips)))
        # The same verdicts in both benchmarks: the first run must still show in each.
        more = write_run(tmp_path / f"{name}-more", single(flips), benchmark="math500")
        (more / "math500").rename(runs[-1] / "math500")
    assert main([*map(str, runs), "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith(("| aime24", "| math500"))]
    assert [row[0] for row in rows] == ["| aime24"] * 3 + ["| math500"] * 3
    assert [Path(row[2].strip("`")).name for row in rows] == ["a", "b", "c"] * 2


def test_json(two_runs: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*two_runs, "--json"]) == 0
    loaded = json.loads(capsys.readouterr().out)
    (difference,) = loaded["differences"]
    assert difference["difference"] == pytest.approx(0.35)
    assert len(difference["gained"]) == 8
    assert loaded["runs"] == two_runs


def test_a_mistake_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["compare", str(tmp_path / "x"), str(tmp_path / "y")]) == 2
    assert "give the --out folder" in capsys.readouterr().err
