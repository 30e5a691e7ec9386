"""`--eval.*` in training: the harness's records and metrics, by problem id, at OpenRLHF's steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.bridge.run import evaluation


@pytest.fixture(scope="module")
def problems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluation problems with ids of their own, two of them with the same prompt."""
    path = tmp_path_factory.mktemp("problems") / "eval.jsonl"
    prompts = ["123+456=", "111+222=", "123+456=", "700+205="]
    rows = [
        {"id": f"p{i}", "prompt": prompt, "label": "1", "datasource": "sums"}
        for i, prompt in enumerate(prompts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_each_evaluation_leaves_records_by_problem_and_logs_the_harness_metrics(
    train: Callable[..., Any], problems: Path
) -> None:
    flags = {"eval__dataset": problems, "eval__steps": 2, "eval__n_samples_per_prompt": 4}
    # A loss that scales the step beside it, for the same start.
    flags["actor__policy_loss_type"] = "vcpo"
    run = train(data__max_samples=32, eval__temperature=1.0, **flags)
    updates = [json.loads(line) for line in (run.folder / "updates.jsonl").open()]
    assert all(0 < update["vcpo/step_scale"] <= 1 for update in updates)
    folders = sorted((run.folder / evaluation.FOLDER).iterdir())
    assert folders
    logged = {line["step"]: line for line in run.metrics if line["kind"] == "eval"}
    for folder in folders:
        step = int(folder.name.removeprefix("step_"))
        lines = (folder / "sums" / "generations.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        assert [(r["id"], r["repeat"]) for r in records] == [
            (f"p{i}", repeat) for i in range(4) for repeat in range(4)
        ]
        assert all(r["prompt"].endswith("assistant\n") for r in records)
        assert all(0 < r["tokens"] <= 32 for r in records)
        summary = json.loads((folder / "summary.json").read_text())["benchmarks"]["sums"]
        assert (summary["problems"], summary["repeats"]) == (4, 4)
        assert logged[step]["eval_sums_pass1"] == pytest.approx(summary["avg@k"])
        assert logged[step]["eval_sums_pass4"] == pytest.approx(summary["pass@k"]["4"])
        assert logged[step]["eval_sums_standard_error"] == pytest.approx(summary["standard_error"])
        assert logged[step]["eval_num_samples"] == 16
