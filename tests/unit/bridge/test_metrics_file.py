"""`metrics.jsonl` beside the logger that was there."""

import json

from vespo_openrlhf.bridge.run.records import MetricsFile


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def log_train(self, step: int, logs: dict) -> None:
        self.calls.append(("train", step, logs))

    def log_eval(self, step: int, logs: dict) -> None:
        self.calls.append(("eval", step, logs))

    def close(self) -> None:
        self.calls.append(("close",))


def test_lines_are_whole_at_once_and_the_inner_logger_hears_everything(tmp_path) -> None:
    path = tmp_path / "new" / "metrics.jsonl"
    inner = Recorder()
    metrics = MetricsFile(path, inner)
    train = {"loss": 0.5, "count": 3, "bad": float("nan"), "generated_samples": ["text", 1.0]}
    metrics.log_train(1, train)
    metrics.log_eval(2, {"pass1": 0.25})
    first, second = (json.loads(line) for line in path.read_text().splitlines())  # before close
    assert {k: v for k, v in first.items() if k != "time"} == {
        "step": 1,
        "kind": "train",
        "loss": 0.5,
        "count": 3,
        "bad": None,
        "generated_samples": ["text", 1.0],
    }
    assert second["kind"] == "eval"
    metrics.close()
    assert inner.calls == [("train", 1, train), ("eval", 2, {"pass1": 0.25}), ("close",)]


def test_a_resumed_run_appends(tmp_path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2):
        metrics = MetricsFile(path)
        metrics.log_train(step, {})
        metrics.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


def test_a_reward_that_logs_its_steps_does_not_move_the_run(tmp_path) -> None:
    """A resume goes by `step`, and keeps what lies below."""
    log = MetricsFile(tmp_path / "metrics.jsonl")
    log.log_train(3, {"step": 99.0, "kind": "proof", "loss": 1.0})
    log.close()
    (line,) = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (line["step"], line["kind"], line["loss"]) == (3, "train", 1.0)
    assert (line["reward/step"], line["reward/kind"]) == (99.0, "proof")
