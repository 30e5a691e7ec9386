"""What is shown of a run while it trains."""

import json
import subprocess
import sys

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
    with subprocess.Popen([sys.executable, "-c", writes, str(path)]) as job:
        assert [line["step"] for line in _follow(path, job, tmp_path / "finished.json")] == [
            0,
            1,
            2,
        ]
    assert json.loads(path.read_text().splitlines()[-1]) == {"step": 2}


def test_lines_are_followed_to_the_end_of_the_run(tmp_path) -> None:
    path, finished = tmp_path / "metrics.jsonl", tmp_path / "finished.json"
    path.write_text('{"step": 1}\n')
    finished.touch()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as job:
        assert [line["step"] for line in _follow(path, job, finished)] == [1]
        assert job.poll() is None
