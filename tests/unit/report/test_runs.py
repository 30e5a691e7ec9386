import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.pages import distinct_names
from vespo_openrlhf.report.charts import moving_average
from vespo_openrlhf.report.derive import TOKENS_PER_SECOND, with_derived
from vespo_openrlhf.report.runs import Run, Series, read_run

MakeFolder = Callable[..., Path]
MakeLine = Callable[..., dict[str, Any]]


def test_a_metric_is_found_by_its_name_or_under_a_losss(run_folder: MakeFolder) -> None:
    run = read_run(run_folder(), "run")
    assert run.find("ess_ratio") == "vespo/ess_ratio"
    assert run.find("absent", "correct") == "correct"
    assert run.find("max") == "lag/max"
    assert run.series("absent") is None
    series = run.series("correct")
    assert series is not None
    assert series.ends() == (1 / 12, 1.0)


def test_a_resumed_run_counts_each_batch_once_and_the_later_line_wins(
    run_folder: MakeFolder, metrics_line: MakeLine
) -> None:
    lines = [metrics_line(1), metrics_line(2), metrics_line(2, correct=0.9), metrics_line(3)]
    run = read_run(run_folder(lines=lines), "run")
    series = run.series("correct")
    assert series is not None
    assert (series.steps, series.values[1]) == ([1, 2, 3], 0.9)


def test_a_line_that_a_kill_tore_is_counted_and_left_out(run_folder: MakeFolder) -> None:
    folder = run_folder()
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 13, "ki')
    run = read_run(folder, "run")
    assert (len(run.train), run.unreadable) == (12, 1)


def test_what_was_not_finite_is_a_gap(run_folder: MakeFolder, metrics_line: MakeLine) -> None:
    lines = [metrics_line(1, policy_loss=None), metrics_line(2, policy_loss=0.5)]
    series = read_run(run_folder(lines=lines), "run").series("policy_loss")
    assert series is not None
    assert math.isnan(series.values[0])
    assert series.finite == [0.5]


def test_a_metric_that_was_never_finite_is_known_by_name(
    run_folder: MakeFolder, metrics_line: MakeLine
) -> None:
    run = read_run(run_folder(lines=[metrics_line(1, policy_loss=None)]), "run")
    series = run.series("policy_loss")
    assert series is not None
    assert series.finite == []
    assert math.isnan(series.ends()[0])


def test_a_lag_that_a_batch_does_not_have_is_nothing_not_unknown(
    run_folder: MakeFolder, metrics_line: MakeLine
) -> None:
    late = {k: v for k, v in metrics_line(2).items() if k != "lag_tokens/2"} | {"lag_tokens/0": 1.0}
    bins = read_run(run_folder(lines=[metrics_line(1), late]), "run").histogram(r"lag_tokens/(\d+)")
    assert {lag: list(series.values) for lag, series in bins.items()} == {
        0: [0.25, 1],
        2: [0.75, 0],
    }


def test_by_lag_is_weighted_by_samples(run_folder: MakeFolder, metrics_line: MakeLine) -> None:
    lines = [
        metrics_line(1, **{"vespo/lag_2_3/num_samples": 1, "vespo/lag_2_3/ess_ratio": 1.0}),
        metrics_line(2, **{"vespo/lag_2_3/num_samples": 3, "vespo/lag_2_3/ess_ratio": 0.6}),
        metrics_line(3, **{"vespo/lag_0/num_samples": 3, "vespo/lag_0/ess_ratio": 0.9}),
    ]
    by_lag = read_run(run_folder(lines=lines), "run").by_lag("ess_ratio")
    assert by_lag == {(2, 3): pytest.approx(0.7), (0, 0): pytest.approx(0.9)}


def test_samples_are_spread_over_the_run_in_either_shape(
    run_folder: MakeFolder, metrics_line: MakeLine
) -> None:
    several = metrics_line(13, generated_samples=[["a", 1.0], ["b", None], ["torn"]])
    lines = [metrics_line(step) for step in range(1, 13)] + [several]
    run = read_run(run_folder(lines=lines), "run")
    assert len(run.samples(100)) == 14
    few = run.samples(3)
    assert [step for step, _, _ in few] == [1, 7, 13]
    assert math.isnan(few[-1][2])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "no such folder"),
        ({}, "give the --run.dir"),
        ({"metrics.jsonl": ""}, "no training line yet"),
        ({"metrics.jsonl": '{"step": 1, "kind": "eval"}\n[1]\n'}, "no training line yet"),
    ],
)
def test_a_folder_without_training_metrics_is_refused(
    tmp_path: Path, files: dict[str, str] | None, message: str
) -> None:
    folder = tmp_path / "run"
    if files is not None:
        folder.mkdir()
        for name, text in files.items():
            (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_run(folder, "run")


def test_broken_settings_do_not_hide_the_metrics(run_folder: MakeFolder) -> None:
    folder = run_folder()
    (folder / "config.json").write_text("[1")
    assert read_run(folder, "run").config == {}


def test_throughput_in_tokens_follows_from_that_in_responses(run_folder: MakeFolder) -> None:
    series = with_derived(read_run(run_folder(), "run")).logged(TOKENS_PER_SECOND)
    assert series is not None
    assert series.values[0] == pytest.approx(5000)


def test_without_its_sources_nothing_is_derived(tmp_path: Path) -> None:
    line = {"step": 1, "kind": "train", "scheduler/samples_per_second": None}
    assert with_derived(Run("run", tmp_path, [line])).names == ["scheduler/samples_per_second"]


def test_moving_average_passes_over_gaps() -> None:
    values = [1.0, math.nan, 3.0, 5.0]
    assert moving_average(values, 2) == [1.0, 1.0, 3.0, 4.0]
    assert math.isnan(moving_average([math.nan], 3)[0])


def test_ends_are_means_of_a_tenth() -> None:
    assert Series(range(20), range(20)).ends() == (0.5, 18.5)


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/a"], ["a"]),
        (["runs/a", "runs/b"], ["a", "b"]),
        (["runs/a/run", "runs/b/run"], ["a", "b"]),
        (["x/a", "y/a/run", "y/b"], ["a", "run", "b"]),
        (["x/a", "y/a", "y/b"], ["x/a", "y/a", "y/b"]),
        (["x/1/a", "y/1/a"], ["x", "y"]),
    ],
)
def test_names_are_as_long_as_it_takes(folders: list[str], names: list[str]) -> None:
    assert distinct_names([Path(folder) for folder in folders]) == names


def test_a_folder_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        distinct_names([Path("a"), Path("b/../a")])


def test_over_updates_each_has_its_value_and_a_batchs_stands_at_its_first(
    run_folder: MakeFolder, metrics_line: MakeLine, updates_line: MakeLine
) -> None:
    lines = [metrics_line(step) for step in (1, 2, 3)]
    lines += [{"step": step, "kind": "eval", "eval_a_pass1": 0.5} for step in (0, 2)]
    updates = [updates_line(u) for u in range(12)]
    run = read_run(run_folder(lines=lines, updates=updates), "run")
    assert run.knows_its_updates
    assert run.axis == "rollout batch"
    batches = run.series("grad_norm", "grad_norm_mean", "ess_ratio")
    assert batches is not None
    assert list(batches.steps) == [1, 2, 3]  # no grad_norm in metrics.jsonl
    run = run.over_updates()
    assert run.axis == "optimizer updates made"
    norm, reward = run.series("grad_norm"), run.series("rollout/reward_mean")
    assert norm is not None
    assert reward is not None
    assert (list(norm.steps), list(norm.values)) == ([*range(12)], [1.0 + u for u in range(12)])
    assert list(reward.steps) == [0, 4, 8]
    evaluation = run.evaluation("eval_a_pass1")
    assert evaluation is not None
    assert list(evaluation.steps) == [0, 8]  # before any, and after two batches
    whole = run.logged("vespo/ess_ratio")
    assert whole is not None
    assert list(whole.steps) == [0, 4, 8]


def test_a_run_without_the_updates_of_every_batch_is_not_drawn_over_them(
    run_folder: MakeFolder, metrics_line: MakeLine, updates_line: MakeLine
) -> None:
    lines = [metrics_line(step) for step in (1, 2)]
    assert not read_run(run_folder("none", lines=lines), "run").knows_its_updates
    late = [updates_line(u) for u in range(4, 8)]  # an older version trained the first batch
    assert not read_run(run_folder("late", lines=lines, updates=late), "run").knows_its_updates


def test_a_resumed_runs_updates_count_once_and_a_torn_line_is_left_out(
    run_folder: MakeFolder, updates_line: MakeLine
) -> None:
    updates = [updates_line(0), updates_line(1), updates_line(1, policy_loss=9.0)]
    folder = run_folder(updates=updates)
    with open(folder / "updates.jsonl", "a") as file:
        file.write('{"update": 2, "st')
    run = read_run(folder, "run")
    assert [line["policy_loss"] for line in run.updates] == [0.1, 9.0]
    assert run.unreadable == 1


def test_accuracy_is_found_wherever_a_step_was_evaluated(
    run_folder: MakeFolder, metrics_line: MakeLine, updates_line: MakeLine
) -> None:
    """In training into RUN/eval, and by `vespo eval watch` into RUN/curve."""
    lines = [metrics_line(step) for step in (1, 2)]
    lines += [{"step": 2, "kind": "eval", "eval_aime24_pass1": 0.9, "eval_aime24_pass2": 1.0}]
    folder = run_folder(lines=lines, updates=[updates_line(u) for u in range(8)])
    assert {n: list(s.values) for n, s in read_run(folder, "run").accuracy().items()} == {
        "aime24": [0.9]
    }
    for path, benchmarks in (
        ("eval/step_000002", {"aime24": {"avg@k": 0.25}}),
        ("eval/step_000001", {"aime24": {"avg@k": 0.125}}),
        ("curve/step_000002", {"aime24": {"avg@k": 0.5}, "math500": {"avg@k": 0.75}}),
        ("superseded/1/eval/step_000002", {"aime24": {"avg@k": 1.0}}),
    ):
        (folder / path).mkdir(parents=True)
        (folder / path / "summary.json").write_text(json.dumps({"benchmarks": benchmarks}))
    run = read_run(folder, "run").over_updates()
    assert {n: (list(s.steps), list(s.values)) for n, s in run.accuracy().items()} == {
        "aime24": ([8], [0.5]),
        "math500": ([8], [0.75]),
        "aime24 (eval)": ([4, 8], [0.125, 0.25]),
    }
