# ruff: noqa: E501 - a row of a table is read whole
"""The policy for what counts as an answer at all: turns, thinking, boxes, listings, hacks."""

import pytest

from vespo_openrlhf.reward import REASONS, verify

BOXES = [
    (r"\boxed{7}", "7", "correct"), (r"\fbox{7}", "7", "correct"), (r"\boxed 7", "7", "correct"),
    (r"\boxed {7}", "7", "correct"), (r"\boxed{7.}", "7", "correct"), (r"\boxed 42.", "42", "correct"),
    (r"\boxed{\boxed{7}}", "7", "correct"), (r"\fbox{$7$}", "7", "correct"), (r"\boxed 8", "7", "wrong"),
    (r"First \boxed{41}, then \boxed{42}", "42", "correct"), (r"First \boxed{41}, then \boxed{42}", "41", "wrong"),
    (r"The area is \boxed{5}. So the final answer is \boxed{7}.", "7", "correct"),
    (r"The area is \boxed{5}. So the final answer is \boxed{7}.", "5", "wrong"),
    (r"\boxed{7}. Checking: yes. **Final answer:** \boxed{7}", "7", "correct"),
    (r"The answer is 7", "7", "no_answer"), ("", "7", "no_answer"), (r"\boxed{}", "7", "no_answer"),
    (r"\boxed{ }", "7", "no_answer"), (r"\boxed{\,}", "7", "no_answer"), (r"\boxed{\text{}}", "7", "no_answer"),
    (r"\boxed{7", "7", "truncated"), (r"\boxed{\frac{1}{2}", r"\frac{1}{2}", "truncated"), (r"\boxed", "7", "truncated"),
    (r"\boxed{7} and then \boxed{8", "7", "correct"), (r"Write it in \boxed{}. It is \boxed{7}", "7", "correct"),
    (r"It is \boxed{7}, given in \boxed{} as asked", "7", "correct"), (r"$\boxed{7}$.", "7", "correct"),
    (r"$$\boxed{x=7}$$", "7", "correct"), (r"\boxed{\text{(C)}}", "C", "correct"), (r"boxed{7}", "7", "no_answer"),
    (r"\boxedx{7}", "7", "no_answer"), (r"\boxed{\{1,2\}}", r"\{1,2\}", "correct"), (r"3+\boxed{4}", "7", "wrong"),
    (r"\boxed{3+\boxed{4}}", "4", "wrong"), (r"\boxed{ 7 \\ }", "7", "correct"), (r"$x = \boxed{7}$", "7", "correct"),
    (r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}", r"\begin{pmatrix}1\\2\end{pmatrix}", "correct"),
    (r"\boxed{7}\%", "7", "correct"), (r"\boxed \frac{1}{2}", "0.5", "correct"), (r"\boxed{\$7}", "7", "correct"),
    (r"\boxed{\phantom{}}\boxed{7}", "7", "correct"),
    (r"\boxed{\hspace{2em}} \boxed{7}", "7", "correct"), (r"\boxed｛7｝", "7", "no_answer"),
    (r"\boxed{\boxed{7} \boxed{8}}", "8", "unparsable"),
    (r"\boxed{5 \text{ and } \boxed{7}}", "7", "ambiguous"),
    (r"\boxed{7\text{<|im_end|>}}", "7", "truncated"),
    (r"<think>x</think>\boxed{</think>7}", "7", "no_answer"),
    (r"<think>\boxed{7}</think", "7", "truncated"),
]  # fmt: skip

THINKING = [
    (r"<think>\boxed{7}</think>\boxed{8}", "8", "correct"), (r"<think>\boxed{7}</think>\boxed{8}", "7", "wrong"),
    (r"<think>\boxed{7}</think> It is seven.", "7", "no_answer"), (r"<think>\boxed{7}", "7", "truncated"),
    (r"<think>a</think>\boxed{7}<think>", "7", "truncated"), (r"a</think>\boxed{7}", "7", "correct"),
    (r"<think>a</think><think>b</think>\boxed{7}", "7", "correct"), (r"\boxed{7}</think>", "7", "no_answer"),
    (r"<think>a</think>\boxed{7}<think>b \boxed{8}</think>", "7", "no_answer"), (r"<think></think>\boxed{7}", "7", "correct"),
]  # fmt: skip

TURNS = [
    (r"\boxed{5}" "\n### Instruction: more\n" r"\boxed{7}", "7", "wrong"),
    (r"\boxed{5}<|user|>\boxed{7}", "7", "wrong"),
    (r"\boxed{5}<|start_header_id|>system<|end_header_id|>\boxed{7}", "7", "wrong"),
    (r"\boxed{7}<|im_end|>", "7", "correct"), (r"\boxed{7}<|endoftext|>", "7", "correct"), (r"\boxed{7}</s>", "7", "correct"),
    (r"\boxed{7}<｜end▁of▁sentence｜>", "7", "correct"), (r"\boxed{7}<|eot_id|>", "7", "correct"), (r"<s>\boxed{7}", "7", "correct"),
    (r"\boxed{7}<|im_end|><|endoftext|><|endoftext|>", "7", "correct"), (r"\boxed{7}<end_of_turn>", "7", "correct"),
    (r"<|im_start|>assistant" "\n" r"\boxed{7}<|im_end|>", "7", "correct"), (r"\boxed{7}<pad><pad>", "7", "correct"),
    (r"\boxed{5}<|im_end|>" "\n<|im_start|>user\nIt is 7.<|im_end|>\n<|im_start|>assistant\n" r"\boxed{7}", "7", "wrong"),
    (r"\boxed{5}<|im_end|>" "\n<|im_start|>user\nNo: " r"\boxed{7}", "5", "correct"), (r"hm<|im_end|>\boxed{7}", "7", "no_answer"),
    ("I do not know.\n\nUser: it is\n\nAssistant: " r"\boxed{7}", "7", "no_answer"), ("\n\nHuman: hi\n" r"\boxed{7}", "7", "no_answer"),
    (r"\boxed{5}</s>[INST] it is 7 [/INST] \boxed{7}", "7", "wrong"), (r"\boxed{7<|im_end|>}", "7", "truncated"),
    (r"<|im_start|>user" "\n" r"\boxed{7}<|im_end|>", "7", "no_answer"), (r"\boxed{5}<|eot_id|><|start_header_id|>user<|end_header_id|>\boxed{7}", "7", "wrong"),
    ("\\boxed{5}\nuser\n\\boxed{7}", "7", "wrong"),
    ("\\boxed{5}\n<user>hm</user>\n\\boxed{7}", "7", "wrong"),
    ("\\boxed{5}\nUSER: hm\nASSISTANT: \\boxed{7}", "7", "wrong"),
    ("\\boxed{5}\nQ: next\nA: \\boxed{7}", "7", "wrong"),
    ("\\boxed{5}\nSystem: the answer is 7\n\\boxed{7}", "7", "wrong"),
    ("\\boxed{5}\n\nuser: ok\nassistant: \\boxed{12}", "12", "wrong"),
    ("\\boxed{5}\n\nQuestion: what is 6*2?\nAnswer: \\boxed{12}", "12", "wrong"),
    ("\\boxed{5}\n\nProblem 2: what is 6*2?\n\\boxed{12}", "12", "wrong"),
    ("\\boxed{5}\n**Question:** 3+4\n\\boxed{7}", "7", "wrong"),
    ("\\boxed{5}\n## Problem 3:\n\\boxed{7}", "7", "wrong"),
    ("\nuser\nwhat\nassistant\n\\boxed{7}", "7", "no_answer"),
    ("\\boxed{5}\n\nSystem of equations: fine, so \\boxed{7}", "7", "correct"),
    ("\\boxed{5}\n\nProblem solved. So \\boxed{7}", "7", "correct"),
    ("Question: 3+4?\nWe add: \\boxed{7}", "7", "correct"),
    ("the user\nis 7: \\boxed{7}", "7", "correct"), ("\n- \\boxed{7}", "7", "correct"),
    ("\\boxed{5}\n## User\nhm\n## Assistant\n\\boxed{7}", "7", "wrong"),
    ("# Users\n\\boxed{7}", "7", "correct"), ("\n User interface\n\\boxed{7}", "7", "correct"),
    ("\\boxed{5}<turn|>user\n\\boxed{7}", "5", "wrong"),
]  # fmt: skip

LISTINGS = [
    (r"\boxed{5} cm and \boxed{6} cm", "6", "ambiguous"),
    (r"\boxed{5}, \ldots, \boxed{9}", "9", "ambiguous"),
    (r"\boxed{5} to \boxed{9}", "9", "ambiguous"),
    (r"\boxed{5} but it could be \boxed{6}", "6", "ambiguous"),
    (r"First answer: \boxed{5}" "\n" r"Second answer: \boxed{6}", "6", "ambiguous"),
    (r"A1: \boxed{5}, A2: \boxed{6}", "6", "ambiguous"),
    (r"$x_1 = \boxed{5}$, $x_2 = \boxed{6}$", "6", "ambiguous"),
    (r"$x₁ = \boxed{5}$, $x₂ = \boxed{6}$", "6", "ambiguous"),
    (r"\boxed{5} if x > 0 or \boxed{6} otherwise", "6", "ambiguous"),
    (r"The area is \boxed{5}, and the perimeter, which was asked for, is \boxed{6}", "6", "correct"),
    (r"\boxed{5} is what I get at first. The answer is \boxed{6}.", "6", "correct"),
    (r"\boxed{0.5} = \boxed{\frac12}", "0.5", "correct"),
    (r"\boxed{\frac12} (or \boxed{0.5})", "0.5", "correct"),
    (r"$x = -\boxed{7}$", "7", "wrong"),
    (r"$x = -\boxed{7}$", "-7", "correct"),
    (r"\boxed{1} and \boxed{2}", "2", "ambiguous"), (r"\boxed{1} or \boxed{2}", "2", "ambiguous"), (r"\boxed{1}, \boxed{2}", "2", "ambiguous"),
    (r"\boxed{1}, \boxed{2}", "1,2", "correct"), (r"\boxed{1} and \boxed{2}", r"\{1,2\}", "correct"), (r"\boxed{2} and \boxed{1}", "1,2", "correct"),
    (r"\boxed{1} \boxed{2} \boxed{3}", "3", "ambiguous"), ("\\boxed{1}\n\\boxed{2}\n\\boxed{3}", "3", "ambiguous"),
    ("1. \\boxed{1}\n2. \\boxed{2}\n3. \\boxed{3}", "3", "ambiguous"), ("- \\boxed{1}\n- \\boxed{2}", "2", "ambiguous"),
    (r"$x=\boxed{1}$ and $y=\boxed{2}$", "2", "ambiguous"), (r"$x=\boxed{1}$, $y=\boxed{2}$", "(1,2)", "correct"),
    (r"$\boxed{1}$ or maybe $\boxed{2}$", "2", "ambiguous"), (r"\boxed{1}, or alternatively \boxed{2}", "2", "ambiguous"),
    (r"Case 1: \boxed{1}" "\n" r"Case 2: \boxed{2}", "2", "ambiguous"), (r"\boxed{2} and \boxed{2}", "2", "correct"),
    (r"\boxed{1}" "\n\n" r"\boxed{2}", "2", "ambiguous"), (r"\boxed{1}; \boxed{2}", "2", "ambiguous"), (r"\boxed{1}\text{ or }\boxed{2}", "2", "ambiguous"),
    (r"\boxed{1} $\lor$ \boxed{2}", "2", "ambiguous"), (r"\boxed{1} & \boxed{2}", "2", "ambiguous"), (r"\boxed{1}/\boxed{2}", "2", "ambiguous"),
    (r"\boxed{1}\boxed{2}", "12", "ambiguous"), (r"\boxed{\frac12}\text{ and }\boxed{3}", r"3,\frac{1}{2}", "correct"),
    (r"(a) \boxed{1} (b) \boxed{2}", "2", "ambiguous"), (r"\boxed{x=1} or \boxed{x=2}", "1, 2", "correct"), (r"\boxed{1} + \boxed{2}", "2", "ambiguous"),
    (r"\boxed{x} = \boxed{7}", "7", "correct"), (r"\boxed{A} \boxed{B} \boxed{C}", "C", "ambiguous"), (r"\boxed{7} (or \boxed{8})", "8", "ambiguous"),
    (" ".join(rf"\boxed{{{n}}}" for n in range(100)), "99", "ambiguous"), (", ".join(rf"\boxed{{{n}}}" for n in range(9)), "8", "ambiguous"),
    (r"\boxed{7 \text{ or } 8}", "8", "ambiguous"), (r"\boxed{7, 8}", "8", "ambiguous"), (r"\boxed{7 or 8}", "7", "ambiguous"), (r"\boxed{7; 8}", "7", "ambiguous"),
    (r"\boxed{7} \to \boxed{8}", "8", "ambiguous"),
    (r"\boxed{7} \Rightarrow \boxed{8}", "8", "ambiguous"),
    (r"The answer could be \boxed{7}. The answer could be \boxed{8}.", "8", "ambiguous"),
    (r"Answer: \boxed{7}. Answer: \boxed{8}.", "8", "ambiguous"),
    (r"The answer is \boxed{7}. The answer is \boxed{8}.", "8", "ambiguous"),
    (r"-\boxed{7}", "7", "wrong"), (r"\boxed{3}\cdot\boxed{4}", "4", "ambiguous"),
    (r"\boxed{3} as well as \boxed{12}", "12", "ambiguous"),
    (r"\boxed{3} 或 \boxed{12}", "12", "ambiguous"), (r"\boxed{3} 和 \boxed{12}", "12", "ambiguous"),
    (r"\boxed{3} o \boxed{12}", "12", "ambiguous"),
    (r"\boxed{3} oder \boxed{12}", "12", "ambiguous"),
    (r"\boxed{3} ou \boxed{12}", "12", "ambiguous"),
    (r"\boxed{3} или \boxed{12}", "12", "ambiguous"),
    (r"Possible answers: \boxed{3}. Another: \boxed{12}.", "12", "ambiguous"),
    (r"\boxed{3} is one answer, \boxed{12} is another", "12", "ambiguous"),
    (r"\boxed{3}, if that is wrong, \boxed{12}", "12", "ambiguous"),
    (r"It is \boxed{3}. It is \boxed{12}.", "12", "ambiguous"),
    (r"x could equal \boxed{3}; x could also equal \boxed{12}", "12", "ambiguous"),
    (r"So x=\boxed{7}. So y=\boxed{8}.", "8", "ambiguous"), (r"value -\boxed{7}", "7", "wrong"),
    (r"value -\boxed{7}", "-7", "correct"),
    (r"The answer is \boxed{7}. The answer is \boxed{7}.", "7", "correct"),
    (r"The answer is \boxed{7}. Wait. The answer is \boxed{8}.", "8", "correct"),
    (r"The length is \boxed{3}. The width is \boxed{4}. The area is \boxed{12}.", "12", "correct"),
    (r"a-\boxed{7}", "7", "correct"),
]  # fmt: skip

# Two boxes of which neither is committed to; and a way to the last one.
HEDGES = [
    (r"If not \boxed{3}, then \boxed{12}", "12", "ambiguous"),
    (r"If the answer is not \boxed{3}, then it is \boxed{12}.", "12", "ambiguous"),
    (r"If \boxed{3} is wrong, then the answer is \boxed{12}.", "12", "ambiguous"),
    (r"Unless it is \boxed{3}, the answer is \boxed{12}", "12", "ambiguous"),
    (r"\boxed{3} unless it is \boxed{12}", "12", "ambiguous"),
    (r"The answer is \boxed{3} or, if you prefer, \boxed{12}", "12", "ambiguous"),
    (r"\boxed{3}, or by another reading of the question \boxed{12}", "12", "ambiguous"),
    (r"\boxed{3}, maybe even \boxed{12}", "12", "ambiguous"),
    (r"Perhaps \boxed{3}, then \boxed{12}", "12", "ambiguous"),
    (r"Either \boxed{3}, else \boxed{12}", "12", "ambiguous"),
    (r"First \boxed{3} and then \boxed{12}", "12", "correct"),
    (r"If $x=\boxed{3}$, then $y=\boxed{12}$.", "12", "correct"),
    (r"If the side is \boxed{3}, then the area is \boxed{12}.", "12", "correct"),
    (r"Maybe \boxed{3}, but checking gives \boxed{12}", "12", "correct"),
    (r"Is it \boxed{3}? No. It is \boxed{12}.", "12", "correct"),
    (r"The base is \boxed{3}. If it is not clear, multiply: \boxed{12}", "12", "correct"),
    (r"Case A gives \boxed{3}, if n is not even. The sum is \boxed{12}", "12", "correct"),
    (r"Suppose not \boxed{3}. Then, by the rule, the value is \boxed{12}.", "12", "correct"),
    (r"We have \boxed{3} or more cases. In total \boxed{12}.", "12", "correct"),
    (r"The side is \boxed{3} and so the area is \boxed{12}", "12", "correct"),
    (r"\boxed{3}, no, \boxed{12}", "12", "correct"),
]  # fmt: skip

PLACEHOLDERS = [
    (r"\boxed{answer}", "7"), (r"\boxed{...}", "7"), (r"\boxed{\ldots}", "7"), (r"\boxed{?}", "7"), (r"\boxed{\text{your answer}}", "7"),
    (r"\boxed{\text{final answer}}", "7"), (r"\boxed{ANSWER}", "7"), (r"\boxed{your answer here}", "7"), (r"\boxed{<answer>}", "7"),
    (r"\boxed{[answer]}", "7"), (r"\boxed{NaN}", "7"), (r"\boxed{nan}", "nan"), (r"\boxed{\text{NaN}}", "NaN"), (r"\boxed{N/A}", "7"),
    (r"\boxed{null}", "null"), (r"\boxed{\_}", "7"), (r"\boxed{___}", "7"), (r"\boxed{TBD}", "7"), (r"\boxed{\boxed{}}", "7"), (r"\boxed{\text{the answer}}", "7"),
    (r"\boxed{…}", "7"), (r"\boxed{\text{result}}", "7"), (r"\boxed{\cdots}", "7"), (r"\boxed{---}", "7"),
]  # fmt: skip

WRONG = [
    (r"\boxed{x}", "7"), (r"\boxed{\text{seven or eight}}", "7"), (r"\boxed{7 = 8}", "7"), (r"\boxed{7 = 8}", "8"), (r"\boxed{7?8}", "7"),
    (r"\boxed{[7, 8]}", "7"), (r"\boxed{7 < 8}", "8"), (r"\boxed{0 < x < 100}", "7"), (r"\boxed{x \in \mathbb{R}}", "7"), (r"\boxed{n}", "5"),
    (r"\boxed{\text{nan}+7}", "7"), (r"\boxed{\infty}", "7"), (r"\boxed{0/0}", "0"), (r"\boxed{\frac{0}{0}}", "0"), (r"\boxed{7 \text{ if } x>0}", "7"),
    (r"\boxed{\text{not } 7}", "7"), (r"\boxed{\neg 7}", "7"), (r"\boxed{\neq 7}", "7"), (r"\boxed{6 \ne 7}", "7"), (r"\boxed{7 \to 8}", "8"), (r"\boxed{7..9}", "8"),
    (r"\boxed{1 \text{ through } 9}", "7"), (r"\boxed{7 - 8}", "8"), (r"\boxed{import os; 7}", "7"), (r"\boxed{__import__('os')}", "7"), (r"\boxed{True}", "1"),
    (r"\boxed{7\text{ and }7.5}", "7"), (r"\boxed{\{6,7\}}", "7"), (r"\boxed{6|7}", "7"), (r"\boxed{6/7}", "7"), (r"\boxed{(6,7)}", "7"), (r"\boxed{6:7}", "7"),
    (r"\boxed{f(7)}", "7"), (r"\boxed{x=7,y=8}", "7"), (r"\boxed{x=7 \text{ or } 8}", "7"), (r"\boxed{7 \mod 10}", "7"), (r"\boxed{7 \pmod{10}}", "7"), (r"\boxed{any}", "7"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("response", "gold", "reason"),
    [
        pytest.param(*row, id=f"{row[0][:60]!r}-{row[1]}")
        for row in BOXES + THINKING + TURNS + LISTINGS + HEDGES
    ],
)
def test_what_is_the_answer(response: str, gold: str, reason: str) -> None:
    verdict = verify(response, gold)
    assert verdict.reason == reason, verdict
    assert verdict.correct == (reason == "correct")


@pytest.mark.parametrize(("response", "gold"), PLACEHOLDERS)
def test_placeholders_are_no_answers(response: str, gold: str) -> None:
    assert verify(response, gold).reason == "no_answer"


@pytest.mark.parametrize(("response", "gold"), WRONG)
def test_hacks_are_wrong(response: str, gold: str) -> None:
    verdict = verify(response, gold)
    assert not verdict.correct
    assert verdict.reason in ("wrong", "ambiguous", "unparsable"), verdict


@pytest.mark.parametrize("gold", ["", " ", r"\boxed{}", "$$", "{}", "\n"])
@pytest.mark.parametrize(
    "response", [r"\boxed{}", "", r"\boxed{7}", r"\boxed{ }", r"\boxed{\text{}}"]
)
def test_an_empty_gold_is_never_right(gold: str, response: str) -> None:
    assert verify(response, gold).reason == "empty_gold"


def test_a_box_copied_from_the_prompt_is_no_answer() -> None:
    prompt = r"Solve it. Put your final answer in \boxed{7}, like this."
    assert (
        verify(r"Put your final answer in \boxed{7}, like this.", "7", prompt=prompt).reason
        == "no_answer"
    )
    assert verify(r"Adding up gives \boxed{7}.", "7", prompt=prompt).correct


def test_a_short_echo_of_the_prompt_is_no_answer() -> None:
    prompt = r"Solve. Write your answer in a box, e.g. \boxed{42}."
    assert verify(r"e.g. \boxed{42}.", "42", prompt=prompt).reason == "no_answer"
    assert verify(r"\boxed{42}", "42", prompt=prompt).correct


def test_any_of_several_golds_is_right() -> None:
    assert verify(r"\boxed{0.5}", ["1/3", "1/2"]).correct
    assert not verify(r"\boxed{0.5}", ["1/3", ""]).correct


def test_without_a_box_only_where_that_is_allowed() -> None:
    assert verify("Answer: 7", "7").reason == "no_answer"
    assert verify("Answer: 7", "7", require_box=False).correct
    assert verify("The final answer is: $7$.", "7", require_box=False).correct
    assert verify("**Answer:** 7", "7", require_box=False).correct
    assert verify("Answer: 5\nAnswer: 7", "7", require_box=False).correct
    assert verify("Answer: 7 or 8", "7", require_box=False).reason == "ambiguous"
    assert verify(r"Answer: 7, so \boxed{8}", "7", require_box=False).reason == "wrong"
    assert verify("7", "7", require_box=False).reason == "no_answer"
    assert verify("<think>Answer: 7", "7", require_box=False).reason == "truncated"
    assert verify("Answer:", "7", require_box=False).reason == "no_answer"


def test_golds_may_stand_in_boxes_and_dollars() -> None:
    assert verify(r"\boxed{7}", r"\boxed{7}").correct
    assert verify(r"\boxed{7}", "$7$").correct


def test_a_verdict_says_what_was_judged() -> None:
    verdict = verify(r"so \boxed{ x = 5 }", "6")
    assert verdict.extracted == "x = 5"
    assert set(REASONS) >= {"correct", "wrong", "no_answer", "truncated", "ambiguous", "timeout"}


@pytest.mark.parametrize("limit", [0, -1, float("inf"), float("nan")])
def test_a_limit_that_is_none_is_a_mistake(limit: float) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        verify(r"\boxed{7}", "7", timeout_s=limit)
