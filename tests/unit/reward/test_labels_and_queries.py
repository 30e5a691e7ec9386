"""Labels, the response inside a query, and the preflight over labels."""

import json

import pytest

from vespo_openrlhf.reward import label_problem, label_problems
from vespo_openrlhf.reward.labels import parse_label
from vespo_openrlhf.reward.pool import client
from vespo_openrlhf.reward.reading.query import ended, split_query

PROMPT = "<|im_start|>user\nWhat is 2+2? Use \\boxed{}.<|im_end|>\n<|im_start|>assistant\n"


def test_a_plain_label_is_its_own_answer() -> None:
    assert parse_label("42").golds == ("42",)
    assert parse_label(42).golds == ("42",)
    assert parse_label(None).golds == ("",)
    assert parse_label(float("nan")).golds == ("",)
    assert parse_label(r"\{1, 2\}").golds == (r"\{1, 2\}",)
    assert parse_label('{"not an answer": 1}').golds == ('{"not an answer": 1}',)


def test_an_object_label_says_more() -> None:
    label = parse_label(
        json.dumps({"answer": 4, "alternatives": ["four"], "source": "s", "type": "text"})
    )
    assert (label.golds, label.source, label.type) == (("4", "four"), "s", "text")
    assert parse_label({"answer": "4", "alternatives": "5"}).golds == ("4", "5")


@pytest.mark.parametrize(
    "label", ['{"answer": 1, "typ": "math"}', '{"answer": 1, "type": "mathematics"}']
)
def test_a_malformed_object_is_a_mistake(label: str) -> None:
    with pytest.raises(ValueError, match="type"):
        parse_label(label)
    assert "type" in (label_problem(label) or "")


@pytest.mark.parametrize(
    "label",
    [
        "5",
        "-5.5",
        r"\frac{1}{2}",
        "Evelyn",
        r"\text{(C)}",
        r"\boxed{5}",
        "x=5",
        "(1,2]",
        "52_8",
        r"5 \text{ cm}",
        '{"answer": "5"}',
        5,
        r"\begin{pmatrix} 1 \\ x \end{pmatrix}",
        r"\$5",
    ],
)
def test_labels_that_can_be_used(label: object) -> None:
    assert label_problem(label) is None


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("", "empty"),
        (None, "empty"),
        ("  ", "empty"),
        (r"\boxed{}", "empty"),
        ('{"answer": ""}', "empty"),
        (r"\frac{1}{", "not parsable"),
        ("x +* ^ 2", "not parsable"),
        ("???", "placeholder"),
        ("9" * 30_000, "characters"),
        ('{"answer": "dog", "type": "choice"}', "letter"),
    ],
)
def test_labels_that_cannot(label: object, problem: str) -> None:
    assert problem in (label_problem(label) or "")


def test_only_what_is_not_a_number_is_sent_to_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    call, sent = client.call, []

    def counted(operation: str, *args: str, timeout_s: float) -> object:
        sent.append((operation, *args))
        return call(operation, *args, timeout_s=timeout_s)

    monkeypatch.setattr(client, "call", counted)
    labels = [str(n) for n in range(1000)] + ["", r"\frac{1}{2}", r"\frac{1}{2}"]
    assert [p for p in label_problems(labels) if p] == ["empty"]
    assert sent == [("unreadable", r"\frac{1}{2}")]


@pytest.mark.parametrize("lead", ["", "<s>", "<|begin_of_text|>"])
def test_the_response_follows_the_prompt(lead: str) -> None:
    assert split_query(lead + PROMPT + r"It is \boxed{4}", PROMPT) == r"It is \boxed{4}"


@pytest.mark.parametrize("cut", [1, 5, 40, len(PROMPT) - 3])
@pytest.mark.parametrize("broken", ["", "\ufffd"])
def test_the_response_follows_a_truncated_prompt(cut: int, broken: str) -> None:
    assert split_query(broken + PROMPT[cut:] + r"\boxed{4}", PROMPT) == r"\boxed{4}"


def test_a_prompt_that_repeats_itself_is_taken_off_whole() -> None:
    prompt = "abab" * 20
    assert split_query(prompt[3:] + "x", prompt) == "x"


def test_thinking_that_the_prompt_opened_is_open() -> None:
    prompt = PROMPT + "<think>\n"
    assert split_query(prompt + "so 4", prompt) == "<think>so 4"
    assert split_query(prompt + "<think>so 4", prompt) == "<think>so 4"


def test_without_a_prompt_all_is_response() -> None:
    assert split_query("abc", "") == "abc"
    assert split_query("", "abc") == ""


def test_what_ends_a_turn() -> None:
    assert ended("a<|im_end|>")
    assert ended("a<|im_end|>\n<|endoftext|><|endoftext|>")
    assert ended("a</s><pad><pad>")
    assert not ended("a")
    assert not ended("a<|im_end|>b")
