"""The mixture with and without routing replay: every run a job, and its row in the table."""

from pathlib import Path

import pytest

from vespo_openrlhf.check.resolve import resolve
from vespo_openrlhf.quickstart.job import to_arguments
from vespo_openrlhf.study import routing
from vespo_openrlhf.study.routing import RoutingRun, flags, run_all, runs, table


@pytest.fixture
def jobs(monkeypatch) -> list[RoutingRun]:
    """The runs that are asked for; in the place of jobs, which take minutes, numbers by hand."""
    asked = []

    def run(asked_for: RoutingRun, out: Path, folder: Path) -> list[dict[str, object]]:
        if asked_for.name == "N64-engine-seed2" and len(asked) < 8:
            raise RuntimeError("the training job failed")
        asked.append(asked_for)
        replayed = asked_for.replay == "engine"
        final = 0.9 - asked_for.updates_per_batch / 1000 - 0.02 * replayed + asked_for.seed / 1000
        experts = {"vespo/experts_differ": 0.25} if replayed else {}
        trained = {"kind": "train", "vespo/log_w_abs_mean": 0.5} | experts
        broken = {"kind": "train", "vespo/log_w_abs_mean": None}
        accuracy = "eval_arithmetic_pass1"
        return [{"kind": "eval", accuracy: 0.1}, trained, broken, {"kind": "eval", accuracy: final}]

    monkeypatch.setattr(routing, "_run", run)
    return asked


def test_what_failed_is_run_again_and_what_is_done_is_not(jobs, tmp_path, monkeypatch) -> None:
    with pytest.raises(RuntimeError, match="N64-engine-seed2 failed: the training job failed"):
        run_all(tmp_path)
    with pytest.raises(ValueError, match="5 of 12 runs are missing, N64-engine-seed2 among them"):
        table(tmp_path / "runs.csv")
    jobs.append(jobs[0])  # from now on nothing fails
    run_all(tmp_path)
    assert jobs[8:] == runs()[7:]
    run_all(tmp_path)
    assert len(jobs) == 13
    monkeypatch.setattr(routing, "_REPOSITORY", tmp_path)  # the same of another checkout
    run_all(tmp_path)
    assert len(jobs) == 13
    monkeypatch.setattr(routing, "UPDATES", 64)  # other runs, whatever their names are
    run_all(tmp_path)
    assert len(jobs) == 25
    _, _, *rows = table(tmp_path / "runs.csv").splitlines()
    assert rows == [
        "| 8 | off | 89.4 ± 0.2 | – | 0.50 | – |",
        "| 8 | engine | 87.4 ± 0.2 | -2.0 ± 0.0 | 0.50 | 25.0 |",
        "| 64 | off | 83.8 ± 0.2 | – | 0.50 | – |",
        "| 64 | engine | 81.8 ± 0.2 | -2.0 ± 0.0 | 0.50 | 25.0 |",
    ]


@pytest.mark.parametrize("replay", ["off", "engine"])
def test_the_flags_make_n_updates_of_a_batch_and_as_many_in_all(replay, tmp_path) -> None:
    for n in (8, 64):
        arguments = to_arguments(flags(RoutingRun(1, n, replay), tmp_path, tmp_path / "run"))
        parsed = resolve(arguments).flags
        samples = parsed["rollout.batch_size"] * parsed["rollout.n_samples_per_prompt"]
        assert samples == n * parsed["train.batch_size"]
        assert parsed["data.max_samples"] * parsed["rollout.n_samples_per_prompt"] == 128 * 64
        assert parsed["moe.routing_replay"] == replay
        assert not parsed["train.async_enable"]
        assert parsed["eval.steps"] * n == 128


def test_a_run_without_an_evaluation_is_named(jobs, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(routing, "_run", lambda *_: [{"kind": "train"}])
    with pytest.raises(RuntimeError, match="N8-off-seed1 failed: its job left no evaluation"):
        run_all(tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("1,8,off,0.5,0.1,", "13: N8-off-seed1 is no run of it, or is there twice"),
        ("4,8,off,0.5,0.1,", "13: N8-off-seed4 is no run of it, or is there twice"),
        ("3,64,engine,nan,0.1,", "13: an accuracy is not finite"),
        ("3,64,engine", "13: the row has more or fewer cells"),
    ],
)
def test_other_runs_are_refused(jobs, tmp_path, row, message) -> None:
    jobs += runs()[:8]
    run_all(tmp_path)
    path = tmp_path / "runs.csv"
    path.write_text("\n".join([*path.read_text().splitlines()[:-1], row]))
    with pytest.raises(ValueError, match=message):
        table(path)
    path.write_text("\n".join([*path.read_text().splitlines()[:-1], "3,64,engine,,,"]))
    assert "| 64 | engine | 54." in (made := table(path))  # what failed has nothing right
    assert made.endswith("| – | – |\n")
