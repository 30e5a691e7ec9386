import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.report.__main__ import main

MakeFolder = Callable[..., Path]
MakeLine = Callable[..., dict[str, Any]]


def titles(html: str) -> list[str]:
    return re.findall(r"<h3>(.*?)</h3>", html)


def sections(html: str) -> list[str]:
    return re.findall(r"<h2[^>]*>(.*?)</h2>", html)


def test_one_run(run_folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_folder(config={"actor.adam.lr": 1e-6}, versions={"torch": "2.13.0"})
    assert main([str(folder)]) == 0
    page = folder / "report.html"
    assert capsys.readouterr().out.strip() == str(page)
    html = page.read_text()
    assert sections(html) == [
        "Summary", "Learning", "Importance weights", "Lag", "Throughput", "Samples", "Settings",
        "Versions", "Everything else",
    ]  # fmt: skip
    assert {"Reward", "Training accuracy", "log W (nats)", "Lag of the tokens (updates)"} <= set(
        titles(html)
    )
    assert {"Response tokens trained per second", "Engines idle"} <= set(titles(html))
    assert "actor.adam.lr" in html
    assert "2.13.0" in html
    # What no chart of ours describes is shown all the same: moving ones drawn, others in a table.
    assert "something/new" in titles(html)
    assert '<th scope="row">always</th>' in html
    assert "<code>--actor.entropy_coef 0</code> logs it" in html


def test_two_runs_side_by_side(run_folder: MakeFolder, tmp_path: Path) -> None:
    runs = [
        run_folder("vespo", config={"lr": 1, "seed": 0}),
        run_folder("grpo", config={"lr": 2, "seed": 0}),
    ]
    page = tmp_path / "both.html"
    assert main([*map(str, runs), "--out", str(page)]) == 0
    html = page.read_text()
    assert '<tr class="different"><th scope="row"><code>lr</code></th>' in html
    assert '<ul class="legend"' in html
    for run in ("vespo", "grpo"):
        assert f"Lag of the tokens (updates) · {run}" in titles(html)
        assert f"Seconds per stage · {run}" in titles(html)
    assert not list(runs[0].glob("*.html"))


def test_runs_that_log_different_things(run_folder: MakeFolder, tmp_path: Path) -> None:
    bare = [
        {"step": s, "kind": "train", "time": 1.0, "rollout/reward_mean": 0.1 * s} for s in (1, 2)
    ]
    runs = [run_folder("full"), run_folder("bare", lines=bare)]
    page = tmp_path / "both.html"
    assert main([*map(str, runs), "--out", str(page)]) == 0
    assert "Not logged: bare." in page.read_text()


def test_a_run_with_next_to_nothing(run_folder: MakeFolder) -> None:
    folder = run_folder(lines=[{"step": 1, "kind": "train"}])
    assert main([str(folder)]) == 0
    html = (folder / "report.html").read_text()
    assert sections(html) == ["Summary", "Learning", "Settings", "Versions", "Everything else"]
    assert "No settings are recorded" in html


def test_values_that_were_never_finite(run_folder: MakeFolder, metrics_line: MakeLine) -> None:
    names = [name for name, v in metrics_line(1).items() if isinstance(v, float) and name != "time"]
    folder = run_folder(lines=[metrics_line(s, **dict.fromkeys(names)) for s in (1, 2)])
    assert main([str(folder)]) == 0


def test_weights_that_blow_up_are_drawn_on_another_axis(
    run_folder: MakeFolder, metrics_line: MakeLine
) -> None:
    lines = [
        metrics_line(
            s,
            **{"vespo/log_w_p05": -300.0, "vespo/log_w_abs_mean": 10.0 ** (s - 8)},
        )
        for s in range(1, 13)
    ]
    folder = run_folder(lines=lines)
    assert main([str(folder)]) == 0
    assert "300" in (folder / "report.html").read_text()


def test_long_runs_are_smoothed(run_folder: MakeFolder, metrics_line: MakeLine) -> None:
    folder = run_folder(lines=[metrics_line(s) for s in range(1, 200)])
    assert main([str(folder)]) == 0
    assert (folder / "report.html").stat().st_size < 2e6


def test_what_was_left_out_of_training_is_said(
    run_folder: MakeFolder, metrics_line: MakeLine
) -> None:
    counts = {"vespo/num_dropped": 3.0, "vespo/num_skipped_updates": 2.0}
    folder = run_folder(lines=[metrics_line(1, **counts)])
    assert main([str(folder)]) == 0
    html = (folder / "report.html").read_text()
    assert "3 responses were left out" in html
    assert "2 updates were skipped" in html


def test_turns_and_environments_of_a_run_with_an_agent(
    run_folder: MakeFolder, metrics_line: MakeLine
) -> None:
    lines = [
        metrics_line(
            step,
            **{
                "rollout/turns": 2.5,
                "right_first": 0.5,
                "timing/environment": 24.0,  # beside 8 of generation
                "scheduler/away_samples": 3.0,
                "rollout/tool_errors": 0.1,
                "scheduler/lost/episode_timeout": float(step == 2),
                "scheduler/lost/max_turns": 0.0,
            },
        )
        for step in (1, 2)
    ]
    folder = run_folder(lines=lines)
    assert main([str(folder)]) == 0
    html = (folder / "report.html").read_text()
    section = html[html.index("Turns and environments</h2>") : html.index("Throughput</h2>")]
    assert titles(section) == [
        "Turns per episode", "Right at the first try", "Time in the environment", "Samples away",
        "Tool errors", "Samples given up: episode timeout",
    ]  # fmt: skip
    assert "Time in the environment: run from 0.75 to 0.75" in section


def test_a_run_without_an_agent_has_no_such_section(
    run_folder: MakeFolder, metrics_line: MakeLine
) -> None:
    names = ("timing/environment", "scheduler/away_samples", "scheduler/lost/episode_timeout")
    folder = run_folder(lines=[metrics_line(s, **dict.fromkeys(names, 0.0)) for s in (1, 2)])
    assert main([str(folder)]) == 0
    html = (folder / "report.html").read_text()
    assert "Turns and environments" not in sections(html)
    assert "Turns per episode" not in html


def test_evaluations_are_drawn(run_folder: MakeFolder, metrics_line: MakeLine) -> None:
    evaluation = {"step": 1, "kind": "eval", "time": 1.0, "eval_aime_pass1": 0.5}
    folder = run_folder(lines=[metrics_line(1), evaluation])
    assert main([str(folder)]) == 0
    assert "eval_aime_pass1" in titles((folder / "report.html").read_text())


def test_a_folder_that_is_no_run_is_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path)]) == 2
    assert "give the --run.dir of a training run" in capsys.readouterr().err


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, vespo_openrlhf.report.__main__ as m\n"
        "try: m.main(['--help'])\n"
        "except SystemExit: print('heavy:', {'torch', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "heavy: set()" in done.stdout, done.stderr


def test_a_secret_in_an_old_config_is_not_on_the_page(run_folder: MakeFolder) -> None:
    config = {"logger.wandb.key": "WANDBSECRET", "reward.remote_url": "http://me:PASSWORD@host/a"}
    folder = run_folder(config=config | {"data.input_key": "problem"})
    assert main([str(folder)]) == 0
    html = (folder / "report.html").read_text()
    assert "logger.wandb.key" in html
    assert "WANDBSECRET" not in html
    assert "PASSWORD" not in html
    assert "problem" in html


def test_runs_that_know_their_updates_are_drawn_over_them(
    run_folder: MakeFolder, updates_line: MakeLine, tmp_path: Path
) -> None:
    known = run_folder("known", updates=[updates_line(u) for u in range(48)])
    unknown = run_folder("unknown")
    page = tmp_path / "page.html"
    for folders, over_updates in (([known], True), ([known, unknown], False)):
        assert main([*map(str, folders), "--out", str(page)]) == 0
        html = page.read_text()
        assert ("optimizer updates made" in html) == over_updates
        assert ("stands at the batch" in html) == over_updates
        assert "rollout batch" in html  # lags and timings are a batch's
        assert ("Gradient norm" in titles(html)) == over_updates  # in no metrics.jsonl here


def test_experts_that_differ_are_drawn_of_runs_that_replay_them(
    run_folder: MakeFolder, metrics_line: MakeLine
) -> None:
    replayed = {"routing/bytes": 1e9, "vespo/experts_differ": 0.02}
    by_lag = {
        f"vespo/{lag}/{name}": value
        for lag in ("lag_0", "lag_2_3")
        for name, value in (("num_samples", 4), ("experts_differ", 0.01))
    }
    folder = run_folder(lines=[metrics_line(step, **replayed, **by_lag) for step in (1, 2)])
    drawn = {
        "Experts that the trainer would choose otherwise",
        "Experts chosen otherwise by lag",
        "Experts to replay (bytes)",
    }
    assert main([str(folder)]) == 0
    assert drawn <= set(titles((folder / "report.html").read_text()))
    other = run_folder("other")
    assert main([str(other)]) == 0
    html = (other / "report.html").read_text()
    assert not drawn & set(titles(html))
    assert "--moe.routing_replay engine" in html
