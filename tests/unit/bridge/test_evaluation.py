"""Verdicts of an evaluation in training whose reward is the user's own."""

import math

import pytest

from vespo_openrlhf.bridge.run.evaluation import _judge


@pytest.mark.parametrize(
    ("score", "reason"),
    [(1.0, "correct"), (0.0, "wrong"), (math.nan, "unavailable"), (None, "unavailable")],
)
def test_a_sample_without_a_score_is_not_called_wrong(score: float | None, reason: str) -> None:
    (judged,) = _judge([{"response": r"\boxed{4}", "score": score}], "mine.py")
    assert judged["reason"] == reason
    assert judged["correct"] is (reason == "correct")
