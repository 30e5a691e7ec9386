"""The panel of training dynamics, from folders as training leaves them."""

import json
import re
from pathlib import Path

import pytest

from vespo_openrlhf.figure.__main__ import main


def make_run(folder: Path, *, updates: bool = True, benchmarks: tuple[str, ...] = ()) -> Path:
    """Six batches of four updates, evaluated after every second."""
    folder.mkdir()
    batches = [
        {"step": step, "kind": "train", "rollout/reward_mean": 0.1 * step, "correct": 0.1 * step}
        | {"rollout/response_length_mean": 100.0, "vespo/grad_norm_mean": 1.0}
        for step in range(1, 7)
    ]
    write(folder / "metrics.jsonl", batches)
    if updates:
        lines = [
            {"update": u, "step": 1 + u // 4, "mini_batch": u % 4, "rollout_kl": 0.01}
            | {"rollout_log_ppl": 0.5, "vespo/grad_norm": 1.0, "policy_loss": 0.1}
            for u in range(24)
        ]
        write(folder / "updates.jsonl", lines)
    for step in (2, 4, 6):
        path = folder / "eval" / f"step_{step:06d}" / "summary.json"
        path.parent.mkdir(parents=True)
        summaries = {name: {"avg@k": 0.1 * step} for name in benchmarks}
        path.write_text(json.dumps({"benchmarks": summaries}))
    return folder


def write(path: Path, lines: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())


def test_two_runs_in_the_papers_eight_panels(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "vespo", benchmarks=("aime24", "aime25", "math500")),
        make_run(tmp_path / "grpo", benchmarks=("aime24",)),
    ]
    out = tmp_path / "panel.svg"
    assert main(["training", *map(str, runs), "--out", str(out)]) == 0
    shown = texts(out)
    assert [title for title in TITLES if title in shown] == TITLES[:8]
    assert {"vespo", "grpo"} <= set(shown)
    assert shown.count("optimizer updates made") == 8
    assert shown.count("not logged") == 1  # the entropy
    chosen = ["--benchmarks", "math500", "aime24", "aime25"]
    assert main(["training", *map(str, runs), *chosen, "--out", str(out)]) == 0
    assert "Accuracy on math500" in texts(out)
    assert texts(out).count("optimizer updates made") == 9


TITLES = [
    "Reward",
    "Response length (tokens)",
    "Entropy (nats per token)",
    "KL to the rollout policy (nats per token)",
    "Log-perplexity of the rollout (nats per token)",
    "Gradient norm",
    "Accuracy on aime24",
    "Accuracy on aime25",
    "Accuracy on math500",
    "Training accuracy",
    "Policy loss",
]


def test_runs_of_an_older_version_are_drawn_over_batches(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "new"), make_run(tmp_path / "old", updates=False)]
    out = tmp_path / "panel.svg"
    assert main(["training", *map(str, runs), "--out", str(out)]) == 0
    assert texts(out).count("rollout batch") == 8
    assert TITLES[-2:] == [title for title in texts(out) if title in TITLES[-2:]]


def test_a_benchmark_that_no_run_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", benchmarks=("aime24",))
    assert main(["training", str(run), "--benchmarks", "aime"]) == 2
    assert "no run was evaluated on aime; there are: aime24" in capsys.readouterr().err
