# ruff: noqa: E501 - a row of a table is read whole
"""The formats of turns and thinking by families of models, and signs before a box."""

import pytest

from vespo_openrlhf.reward import verify
from vespo_openrlhf.reward.reading.formats import THINKING
from vespo_openrlhf.reward.reading.query import split_query

# (before the thinking, what opens it, what closes it, after the answer)
FAMILIES = {
    "Qwen3": ("<|im_start|>assistant\n", "<think>", "</think>", "<|im_end|>"),
    "DeepSeek-R1": ("<｜Assistant｜>", "<think>", "</think>", "<｜end▁of▁sentence｜>"),
    "GLM-4.5": ("<|assistant|>", "<think>", "</think>", "<|user|>"),
    "Phi-4-reasoning": ("<|im_start|>assistant<|im_sep|>", "<think>", "</think>", "<|im_end|>"),
    "Kimi-K2": ("<|im_assistant|>assistant<|im_middle|>", "<think>", "</think>", "<|im_end|>"),
    "Kimi-K3": ("", "<|open|>think<|sep|>", "<|close|>think<|sep|>", "<|im_end|>"),
    "Kimi-VL": ("", "◁think▷", "◁/think▷", "[EOS]"),
    "Magistral": ("", "[THINK]", "[/THINK]", "</s>"),
    "Gemma 4": ("<|turn>model\n", "<|channel>thought\n", "<channel|>", "<turn|>"),
    "Seed-OSS": ("", "<seed:think>", "</seed:think>", "<seed:eos>"),
    "MiniMax M3": ("", "<mm:think>", "</mm:think>", ""),
    "Command A": ("", "<|START_THINKING|>", "<|END_THINKING|>", "<|END_OF_TURN_TOKEN|>"),
    "EXAONE Deep": ("", "<thought>", "</thought>", ""),
    "MedGemma": ("", "<unused94>thought\n", "<unused95>", "<end_of_turn>"),
    "OpenThinker": (
        "",
        "<|begin_of_thought|>",
        "<|end_of_thought|><|begin_of_solution|>",
        "<|end_of_solution|>",
    ),
    "gpt-oss": (
        "",
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|return|>",
    ),
    "gpt-oss, special tokens left out": ("", "analysis", "assistantfinal", ""),
    "gpt-oss, special tokens left out, from its start": (
        "assistant",
        "analysis",
        "assistantfinal",
        "",
    ),
}
# (before the answer, after it), of those that do not think
TURNS = {
    "Llama 3": ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    "Gemma 3": ("<start_of_turn>model\n", "<end_of_turn>"),
    "Phi-3": ("<|assistant|>", "<|end|>"),
    "Mistral": ("", "</s>"),
    "gpt-oss": ("<|channel|>final<|message|>", "<|return|>"),
}
NEXT_TURNS = [
    "<|im_start|>user\n", "<｜User｜>", "<|user|>", "<|observation|>", "<|im_user|>user<|im_middle|>", "[INST]",
    "<|turn>user\n", "<turn|>\n<|turn>user\n", "<start_of_turn>user\n", "<|start_header_id|>user<|end_header_id|>",
]  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_thinking_is_no_answer_and_open_thinking_has_none(family: str) -> None:
    before, opens, closes, after = FAMILIES[family]
    thought = f"{before}{opens}We get $\\boxed{{7}}$. No, 8."
    response = f"{thought}{closes}It is $\\boxed{{8}}$.{after}"
    assert verify(response, "8").correct
    assert verify(response, "7").reason == "wrong"
    assert verify(thought, "7").reason == "truncated"
    assert verify(thought, "7", require_box=False).reason == "truncated"
    assert verify(f"{thought}{closes}It is eight.{after}", "7").reason == "no_answer"


@pytest.mark.parametrize("family", TURNS)
def test_a_turn_without_thinking(family: str) -> None:
    before, after = TURNS[family]
    assert verify(f"{before}It is $\\boxed{{8}}$.{after}", "8").correct
    assert verify(f"{before}It is 8.{after}\\boxed{{8}}", "8").reason == "no_answer"


@pytest.mark.parametrize("turn", NEXT_TURNS)
def test_what_follows_the_turn_is_not_its_answer(turn: str) -> None:
    assert verify(f"It is \\boxed{{8}}.{turn}No: \\boxed{{7}}", "8").correct
    assert not verify(f"It is \\boxed{{8}}.{turn}No: \\boxed{{7}}", "7").correct


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (r"<|channel|>commentary<|message|>\boxed{7}<|call|>", "truncated"),
        (r"<|channel|>analysis<|message|>a<|end|><|start|>user<|message|>b<|end|>"
         r"<|start|>assistant<|channel|>final<|message|>\boxed{7}", "truncated"),
        (r"<|channel|>final<|message|>\boxed{7}<|return|><|start|>user<|message|>\boxed{8}", "correct"),
        (r"<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final "
         r"<|constrain|>json<|message|>\boxed{7}", "correct"),
        (r"<|channel|>commentary to=functions.f<|message|>{}<|call|><|start|>functions.f to=assistant<|channel|>commentary"
         r"<|message|>\boxed{8}<|end|><|start|>assistant<|channel|>final<|message|>\boxed{7}", "correct"),
        (r"<|start|>functions.f to=assistant<|channel|>final<|message|>\boxed{7}", "truncated"),
        (r"analysis of the case: \boxed{7}", "correct"), (r"the assistantfinal is \boxed{7}", "correct"),
        (r"[THINK]a[/THINK]<think>\boxed{7}", "truncated"), (r"a[/THINK]\boxed{7}", "correct"),
        (r"\boxed{7}[/THINK]", "no_answer"), (r"<think>[THINK]</think>\boxed{7}[THINK]", "truncated"),
    ],
)  # fmt: skip
def test_channels_and_mixed_marks(response: str, reason: str) -> None:
    assert verify(response, "7").reason == reason


@pytest.mark.parametrize("opens", [opens for opens, _ in THINKING])
def test_a_prompt_that_opens_the_thinking(opens: str) -> None:
    prompt = f"Add 3 and 4.{opens}\n"
    assert verify(split_query(prompt + r"So \boxed{7}", prompt), "7").reason == "truncated"
    prompt = "Add 3 and 4.<|start|>assistant<|channel|>analysis<|message|>"
    assert verify(split_query(prompt + r"So \boxed{7}", prompt), "7").reason == "truncated"


@pytest.mark.parametrize(
    ("response", "gold", "right"),
    [
        (r"$- \boxed{6}$", "6", False), (r"$- \boxed{6}$", "-6", True), (r"$y = - {\boxed{6}}$", "6", False),
        (r"$-(\boxed{6})$", "6", False), (r"\(-\left(\boxed{6}\right)\)", "6", False), (r"**-\boxed{6}**", "-6", True),
        (r"$y=-\,\boxed{6}$", "6", False), (r"$y=-$ $\boxed{6}$", "6", False), (r"$(-\boxed{6})$", "6", False),
        (r"$y=\pm \boxed{6}$", r"\pm 6", True), (r"$y=±\boxed{6}$", "6", False), (r"$\pm\boxed{6}$", "6,-6", True),
        ("\n- \\boxed{6}", "6", True), (r"Answer - \boxed{6}", "6", True), (r"The value of $y$ - \boxed{6}", "6", True),
        (r"$10 - \boxed{6}$", "6", True), (r"$y=10 - \boxed{6}$", "6", True), (r"**Answer** - \boxed{6}", "6", True),
        (r"$5\pm\boxed{6}$", "6", True),
        ("$y = –\\boxed{6}$", "6", False), ("$y = –\\boxed{6}$", "-6", True), ("$y=－\\boxed{6}$", "6", False),
        (r"$y=\text{-}\boxed{6}$", "6", False), (r"$y=\;-\;\boxed{6}$", "6", False), (r"$y=-\large\boxed{6}$", "6", False),
        (r"$y=-\textbf{\boxed{6}}$", "6", False), (r"$y=-\color{red}\boxed{6}$", "-6", True), (r"$y=\mp\boxed{6}$", "6", False),
        (r"**- \boxed{6}**", "6", False), (r"**-** $\boxed{6}$", "6", False), (r"is (- \boxed{6})", "6", False), (r"is $( - \boxed{6} )$", "-6", True),
        (r"is -\ \boxed{6}", "6", False), (r"is $-[\boxed{6}]$", "6", False), (r"is ± \boxed{6}", r"\pm 6", True), (r"$5 \pm \boxed{6}$", "6", True),
        (r"**Answer:**- \boxed{6}", "6", True), (r"[1] - \boxed{6}", "6", True), (r"(so far) - \boxed{6}", "6", True),
        (r"$y > -\boxed{6}$", "6", False), (r"$y \le -\boxed{6}$", "6", False), (r"$y \neq - \boxed{6}$", "-6", True),
        (r"$y=-\bigl(\boxed{6}\bigr)$", "6", False), ("So: – $\\boxed{6}$", "6", True), ("<br>- \\boxed{6}", "6", True),
    ],
)  # fmt: skip
def test_a_sign_before_the_box(response: str, gold: str, right: bool) -> None:
    assert verify(f"So {response}.", gold).correct == right
