"""Numbers that are near enough, and what a record says of them."""

import pytest

from vespo_openrlhf.eval.benchmarks import BENCHMARKS, Benchmark
from vespo_openrlhf.eval.judging.tolerance import within
from vespo_openrlhf.eval.judging.verdicts import judge, judge_all
from vespo_openrlhf.eval.metrics import summarise

MINERVA = BENCHMARKS["minerva"].tolerance


@pytest.mark.parametrize(
    ("gold", "answer", "near"),
    [
        ("2.71828", "2.71830", True),
        ("2.71828", "2.7184", False),
        ("0.333", "0.3333", False),  # 1 in 1,000: Minerva's own rule does not take it either
        ("1.6e-19", "1.602e-19", True),  # so small that 1 % is allowed
        ("1.6e-19", "1.7e-19", False),
        ("-1.6e-19", "1.6e-19", False),
        ("6.022e23", "6.02203e23", True),
        ("100000", "100001", True),
        ("100000", "100002", False),
        (r"\frac{1}{3}", "0.333333", True),
        (r"2 \text{ m}", r"200.001 \text{ cm}", True),
        (r"2 \text{ m}", r"2.00001 \text{ s}", False),
        ("50", "50.0001\\%", False),
        ("101_2", "101", False),
        ("0", "0.0000001", False),
        ("x", "2", False),
        ("2", "x", False),
        ("1,2", "1,2.00001", False),
    ],
)
def test_minervas_rule(gold: str, answer: str, near: bool) -> None:
    assert within([gold], answer, MINERVA) == near


def test_an_absolute_tolerance_and_any_of_several_golds() -> None:
    assert within(["3.4", "7.1"], "7.2", 0.0, 0.1)
    assert not within(["3.4", "7.1"], "7.21", 0.0, 0.1)


def test_a_verdict_says_when_it_was_the_tolerance() -> None:
    said = "so \\boxed{6.02203e23}"
    assert judge(said, "6.022e23")["correct"] is False
    assert "within_tolerance" not in judge(said, "6.022e23")
    near = judge(said, "6.022e23", tolerance=(1e-5, 0.0))
    assert (near["correct"], near["reason"], near["within_tolerance"]) == (True, "correct", True)
    for response, gold in (("\\boxed{6.022e23}", "6.022e23"), ("\\boxed{7}", "6.022e23")):
        exact = judge(response, gold, tolerance=(1e-5, 0.0))
        assert exact["within_tolerance"] is False
        assert exact["correct"] is judge(response, gold)["correct"]
    # Words are no numbers, and two answers are none.
    assert not judge("\\boxed{2}", '{"answer": "2.00001", "type": "text"}', tolerance=(0.1, 0.0))[
        "correct"
    ]
    assert not judge("\\boxed{2.1} or \\boxed{2}", "2.00001", tolerance=(0.1, 0.0))["correct"]


def test_records_are_judged_as_their_benchmark_and_problem_say_and_counted() -> None:
    records = [
        {"id": "a", "repeat": 0, "prompt": "?", "gold": "2", "response": f"\\boxed{{{x}}}", **more}
        for x, more in (("2.05", {"tolerance": 0.1}),)
    ]
    how = Benchmark("b", hub="a/b", tolerance_column="error").judged_by(True)
    assert Benchmark("b", hub="a/b").judged_by(True).keys() == how.keys() - {"tolerance"}
    (judged,) = judge_all(records, how)
    assert (judged["correct"], judged["within_tolerance"]) == (True, True)
    assert summarise([judged])["tolerance_rate"] == 1.0
    (judged,) = judge_all(records, how | {"tolerance": None})
    assert judged["correct"] is False
    # A judgement again without the tolerance does not leave the old word in place.
    (again,) = judge_all([{**records[0], "tolerance": 0.0, "within_tolerance": True}], how)
    assert (again["correct"], again["within_tolerance"]) == (False, False)
