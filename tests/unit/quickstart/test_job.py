"""A job is submitted until it starts, and what is shown of it while it trains."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from vespo_openrlhf.quickstart import job
from vespo_openrlhf.quickstart.job import _follow, _shown


def test_the_weight_is_found_under_the_name_of_any_loss() -> None:
    line = {
        "rollout/reward_mean": 0.5,
        "ppo/lag_0/ess_ratio": 0.1,
        "ppo/log_w_abs_mean": 0.25,
        "ppo/ess_ratio": 0.9,
    }
    assert list(_shown(line)) == ["reward 0.50", "|log W| 0.250", "ESS 0.90"]


def test_what_is_missing_or_not_finite_is_left_out() -> None:
    assert list(_shown({"rollout/reward_mean": 0.5, "ppo/ess_ratio": None})) == ["reward 0.50"]


def test_lines_are_followed_to_the_end_of_the_job(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    writes = (
        "import sys, time\n"
        "with open(sys.argv[1], 'w', buffering=1) as file:\n"
        "    for step in range(3):\n"
        "        file.write('{\"step\": ')\n"
        "        file.flush()\n"
        "        time.sleep(0.2)\n"
        "        file.write(f'{step}}}\\n')\n"
    )
    with subprocess.Popen([sys.executable, "-c", writes, str(path)]) as running:
        followed = _follow(path, running, tmp_path / "finished.json")
        assert [line["step"] for line in followed] == [
            0,
            1,
            2,
        ]
    assert json.loads(path.read_text().splitlines()[-1]) == {"step": 2}


def test_lines_are_followed_to_the_end_of_the_run(tmp_path) -> None:
    path, finished = tmp_path / "metrics.jsonl", tmp_path / "finished.json"
    path.write_text('{"step": 1}\n')
    finished.touch()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as running:
        assert [line["step"] for line in _follow(path, running, finished)] == [1]
        assert running.poll() is None


@pytest.mark.parametrize(("answers", "ends_well"), [(2, True), (9, False)])
def test_a_cluster_that_cannot_start_jobs_yet_is_asked_again(
    answers: int, ends_well: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ray job submit` is a stand-in that gets Ray's answer so often."""
    counter = tmp_path / "count"
    submit = (
        "import pathlib, sys\n"
        f"path = pathlib.Path({str(counter)!r})\n"
        "times = int(path.read_text()) if path.exists() else 0\n"
        "path.write_text(str(times + 1))\n"
        f"if times < {answers}:\n"
        "    sys.exit('Request failed with status code 500: ' + "
        "'No available agent to submit job, please try again later..')\n"
    )
    monkeypatch.setattr(job, "ray_command", lambda: [sys.executable, "-c", submit])
    cluster = SimpleNamespace(dashboard="", environment=dict(os.environ))
    shown: list[str] = []

    def run() -> None:
        job.run_job(
            cluster,
            [],
            log=tmp_path / "log",
            metrics=tmp_path / "metrics.jsonl",
            total_steps=1,
            submitted=lambda: shown.append("once"),
        )

    if ends_well:
        run()
        assert counter.read_text() == "3"
    else:
        with pytest.raises(RuntimeError, match="No available agent"):
            run()
        assert counter.read_text() == str(job._SUBMISSIONS)
    assert shown == ["once"]


def test_any_other_failure_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = tmp_path / "count"
    code = f"import sys; open({str(count)!r}, 'a').write('x'); sys.exit('no such flag')"
    monkeypatch.setattr(job, "ray_command", lambda: [sys.executable, "-c", code])
    cluster = SimpleNamespace(dashboard="", environment=dict(os.environ))
    paths = {"log": tmp_path / "log", "metrics": tmp_path / "metrics.jsonl"}
    with pytest.raises(RuntimeError, match="no such flag"):
        job.run_job(cluster, [], **paths, total_steps=1)
    assert count.read_text() == "x"
