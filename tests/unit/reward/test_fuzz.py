# ruff: noqa: E501 - a row of a table is read whole
"""The fuzzer: its oracle, what it makes of golds, and the verifier on a fixed seed."""

import json
from pathlib import Path

import pytest

from vespo_openrlhf.reward.__main__ import main
from vespo_openrlhf.reward.tools import fuzz as tool
from vespo_openrlhf.reward.tools.fuzz import cases_of, fuzz
from vespo_openrlhf.reward.tools.oracle import evaluate, same
from vespo_openrlhf.reward.verdict import Verdict

GOLDS = [
    "17", "-4", "2,350", "0.35", "0", r"\frac{5}{12}", r"-\frac{8}{3}", r"3\frac{1}{4}", r"7\sqrt{3}",
    r"\frac{2\sqrt{5}}{3}", r"4 - \sqrt{7}", r"\sqrt[3]{9}", r"6\pi", "3 - 8i", "x^2 - 5x + 3",
    "(x-4)(x+7)", r"\frac{x+3}{x-1}", r"\frac{n(n+1)}{2}", "2^{n} - 5", r"2\ln 3", "e^{2x}",
    "(3,-5)", "(2,7,-1)", "[1,6)", r"(-\infty,4]", r"(0,2) \cup (5,9)", "2, 5, 11", r"1 \pm \sqrt{6}",
    r"\{3, \frac{1}{2}\}", "y = 3x - 4", "x^2 + y^2 = 9", "x=4, y=-3", r"2 < x \le 8", "x + 2y > 5",
    r"3k\pi, k \in \mathbb{Z}", r"\frac{1}{x-6}, x \ne 6", "35^\\circ", r"12 \text{ cm}^2", "213_4",
    r"\text{north}", r"\text{(B)}", "3:7:2", r"\begin{pmatrix} 1 & -2 \\ 5 & 4 \end{pmatrix}",
    r"\begin{cases} 2x & \text{if } x > 3 \\ 7 & \text{if } x \le 3 \end{cases}",
]  # fmt: skip


def test_the_verifier_and_the_oracle_agree() -> None:
    report = fuzz(GOLDS, seed=0)
    assert report["wrong_accepted"] == []
    assert report["equivalent_rejected"] == []
    assert report["unjudged"] == 0
    assert report["wrong"] > 500
    assert report["equivalent"] > 250


def test_a_seed_makes_the_same_cases() -> None:
    for gold in GOLDS[::4]:
        cases, _ = cases_of(gold, 1)
        assert cases == cases_of(gold, 1)[0]
        assert {case.expected for case in cases} == {True, False}, gold


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (r"\dfrac12", "0.5", True), (r"2\frac{1}{2}", "5/2", True), (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", True),
        ("10,080", r"10,\!080", True), ("(x+1)^2", "x^2+2x+1", True), ("-1^2", "1", False), ("58", "59", False),
        ("(1,2)", "(2,1)", False), ("1,2", "2,1", True), ("(1,2]", "[1,2]", False), ("x < 3", r"(-\infty,3)", True),
        ("x < 3", r"x \le 3", False), ("2x+2y=4", "x+y=2", True), ("x=1,y=2", "x=2,y=1", False), ("52_8", "52_9", False),
        (r"3 \text{ cm}", r"3 \text{ m}", False), (r"3 \text{ cm}", "3", True), ("2:4", "1:2", True),
        (r"k, k \in \mathbb{Z}", r"k, k \in \mathbb{N}", False), (r"\text{east}", r"\text{west}", False),
    ],
)  # fmt: skip
def test_oracle(left: str, right: str, equal: bool) -> None:
    assert same(evaluate(left), evaluate(right)) == equal


@pytest.mark.parametrize(
    "text", ["a/bc", "x^y^z", r"\heartsuit", "(1", "9^{9^{9}}", "(1,2) = 3", ""]
)
def test_what_the_oracle_cannot_read_is_left_out(text: str) -> None:
    assert cases_of(text, 0)[0] == []


def test_fuzz_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "golds.jsonl"
    rows = [
        {"answer": "5"},
        {"answer": '{"answer": "7", "alternatives": ["14/2"]}'},
        {"answer": ""},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert main(["fuzz", str(path), "--json", "--seed", "3"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["golds"] == 3
    assert report["cases"] == report["wrong"] + report["equivalent"]

    monkeypatch.setattr(tool, "verify", lambda response, gold: Verdict(True, "", "correct"))
    assert main(["fuzz", str(path), "--limit", "1"]) == 1
    shown = capsys.readouterr().out
    assert "gold '5'  answer '-5' (leading sign)" in shown
    assert "expected wrong, got correct" in shown
    assert "equivalents rejected: 0 of" in shown

    monkeypatch.setattr(tool, "verify", lambda response, gold: Verdict(False, "", "wrong"))
    assert main(["fuzz", str(path), "--limit", "1"]) == 0  # reported, and no hole
    assert "expected correct, got wrong" in capsys.readouterr().out
    assert main(["fuzz", str(path), "--label-key", "gold"]) == 2
