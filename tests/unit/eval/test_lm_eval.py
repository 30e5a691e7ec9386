"""The results in lm-evaluation-harness's shape."""

import json
from collections.abc import Callable
from pathlib import Path

from vespo_openrlhf.eval.__main__ import main

# Of EvalResults in lm_eval 0.4.13's result_schema.py: what simple_evaluate always returns, and
# what its evaluation_tracker.py adds when it saves; without environment, git and tokenizer.
KEYS = {
    "results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples",
    "config", "date", "transformers_version", "model_source", "model_name", "model_name_sanitized",
    "system_instruction", "fewshot_as_multiturn", "task_hashes",
}  # fmt: skip


def test_results_in_the_shape_of_lm_eval(
    command: Callable[..., list[str]], problems: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    more = ["--limit", "5", "--few-shot", "1", "--few-shot-from", str(problems), "--top-k", "20"]
    assert main(command(out, *more, "--also-greedy")) == 0
    found = json.loads((out / "results.json").read_text())
    summary = json.loads((out / "summary.json").read_text())["benchmarks"]
    assert found.keys() == KEYS
    assert found["results"].keys() == {"sums", "sums-greedy"}
    task = found["results"]["sums"]
    assert (task["name"], task["alias"], task["sample_len"]) == ("sums", "sums", 5)
    assert task["exact_match,none"] == summary["sums"]["avg@k"]
    assert task["exact_match_stderr,none"] == summary["sums"]["standard_error"]
    assert task["pass@4,none"] == summary["sums"]["pass@k"]["4"]
    assert task["maj@4_stderr,none"] == "N/A"
    # As its table reads them: metric and filter, and an error beside each.
    metrics = {key for key in task if "," in key and "_stderr" not in key}
    assert all(key.replace(",", "_stderr,") in task for key in metrics)
    assert found["higher_is_better"]["sums"] == {key.partition(",")[0]: True for key in metrics}
    assert found["n-samples"]["sums"] == {"original": 40, "effective": 5}
    assert found["n-shot"] == {"sums": 1, "sums-greedy": 1}
    assert found["configs"]["sums"]["generation_kwargs"]["top_k"] == 20
    assert found["configs"]["sums"]["generation_kwargs"]["do_sample"] is True
    assert found["configs"]["sums-greedy"]["generation_kwargs"]["do_sample"] is False
    assert found["config"]["limit"] == 5
    before = (out / "results.json").read_bytes()
    (out / "results.json").unlink()
    assert main(["score", str(out)]) == 0
    assert (out / "results.json").read_bytes() == before
