"""Examples before a problem: which, how they read, and that judging is not misled by them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.eval.benchmarks import BENCHMARKS, parse
from vespo_openrlhf.eval.benchmarks.few_shot import load_examples
from vespo_openrlhf.eval.benchmarks.loading import Problem, load
from vespo_openrlhf.eval.benchmarks.templates import TEMPLATES, Renderer, Template
from vespo_openrlhf.eval.judging.verdicts import judge_all

PLAIN, DAPO = TEMPLATES["plain"], TEMPLATES["dapo"]


@pytest.fixture
def shots(tmp_path: Path) -> Path:
    path = tmp_path / "shots.jsonl"
    rows = [
        {"problem": f"{i}+1=", "answer": str(i + 1), "solution": f"{i} and one."} for i in range(8)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_all_problems_have_the_same_examples_and_none_is_its_own(shots: Path) -> None:
    benchmark = BENCHMARKS["aime24"]
    examples = load_examples(benchmark, 3, 0, str(shots))
    usual = examples.before(Problem("x", "unlike any", "1"), PLAIN)
    assert len(usual) == len(set(usual)) == 3
    for number, own in enumerate(examples.loaded.problems):
        others = examples.before(replace(own, text=f" {own.text}\n"), PLAIN)
        assert len(others) == 3
        assert all(question != own.text for question, _ in others)
        if own.text not in {question for question, _ in usual}:
            assert others == usual, number
    orders = [
        load_examples(benchmark, 3, seed, str(shots)).before(Problem("x", "?", "1"), PLAIN)
        for seed in range(5)
    ]
    assert orders[0] == usual
    assert any(order != usual for order in orders)


def test_an_answer_is_written_as_the_template_wants_it(shots: Path, tmp_path: Path) -> None:
    examples = load_examples(BENCHMARKS["aime24"], 7, 0, str(shots))
    problem = Problem("x", "?", "1")
    assert ("2+1=", "2 and one.\n\nThe answer is \\boxed{3}.") in examples.before(problem, PLAIN)
    assert ("2+1=", "2 and one.\n\nAnswer: 3") in examples.before(problem, DAPO)
    boxed = tmp_path / "boxed.jsonl"
    row = {"question": "4+4?", "answer": "It is <<4+4=8>>8.\n#### 8"}
    rows = [row, {**row, "question": "5+5?", "answer": "So \\boxed{10}.\n#### 10"}]
    boxed.write_text("".join(json.dumps(r) + "\n" for r in rows))
    worked = load_examples(BENCHMARKS["gsm8k"], 1, 0, str(boxed))
    pairs = {worked.before(Problem("x", q, ""), PLAIN)[0] for q in ("4+4?", "5+5?")}
    assert pairs == {
        ("4+4?", "It is <<4+4=8>>8.\n\nThe answer is \\boxed{8}."), ("5+5?", "So \\boxed{10}."),
    }  # fmt: skip


def test_what_has_no_examples_or_too_few_is_refused(shots: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="aime24 has no examples of its own: name a file"):
        load_examples(BENCHMARKS["aime24"], 1, 0)
    with pytest.raises(ValueError, match="but split train of the hub: name a file"):
        load_examples(BENCHMARKS["gsm8k"], 1, 0, data_dir=tmp_path)
    with pytest.raises(ValueError, match=r"shots\.jsonl holds 8 problems"):
        load_examples(BENCHMARKS["aime24"], 8, 0, str(shots))
    with pytest.raises(ValueError, match="no such file"):
        load_examples(BENCHMARKS["aime24"], 1, 0, "none.jsonl")


def test_a_benchmark_names_its_own_examples(shots: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("path: shots.jsonl\nfew_shot: shots.jsonl\n")
    benchmark = load(parse(f"{tmp_path}/own.yaml")[0].benchmark).benchmark
    assert load_examples(benchmark, 2, 0).loaded.source == str(shots)
    (tmp_path / "own.yaml").write_text("path: shots.jsonl\nfew_shot: none.jsonl\n")
    with pytest.raises(ValueError, match="no such file"):
        parse(f"{tmp_path}/own.yaml")


PAIRS = [("1+1=", "\\boxed{2}"), ("2+2=", "\\boxed{4}")]


def test_examples_are_turns_of_the_chat_or_text() -> None:
    prompt = Renderer(build_tokenizer(), system="Add.").render(PLAIN, "3+3=", PAIRS)
    assert prompt.messages is not None
    assert [(m["role"], m["content"]) for m in prompt.messages] == [
        ("system", "Add."), ("user", "1+1="), ("assistant", "\\boxed{2}"), ("user", "2+2="),
        ("assistant", "\\boxed{4}"), ("user", "3+3="),
    ]  # fmt: skip
    assert prompt.text[prompt.own_at :] == "3+3=<|im_end|>\n<|im_start|>assistant\n"
    text = "1+1=\n\\boxed{2}\n\n2+2=\n\\boxed{4}\n\n3+3="
    prompt = Renderer(build_tokenizer(), examples_as_text=True).render(PLAIN, "3+3=", PAIRS)
    assert prompt.messages == ({"role": "user", "content": text},)
    assert prompt.text[prompt.own_at :].startswith("3+3=<|im_end|>")
    prompt = Renderer(raw=True).render(PLAIN, "3+3=", PAIRS)
    assert (prompt.text, prompt.messages, prompt.text[prompt.own_at :]) == (text, None, "3+3=")
    assert Renderer().render(PLAIN, "3+3=").own_at == 0


def test_examples_do_not_stand_in_a_prompt_that_opens_the_thinking() -> None:
    with pytest.raises(ValueError, match="begins the response with <think>"):
        Renderer().render(TEMPLATES["r1"], "3+3=", PAIRS)
    with pytest.raises(ValueError, match="begins the response with <think>"):
        Renderer().render(Template("{problem}<think>"), "3+3=", PAIRS)


def test_an_answer_in_the_words_of_an_example_counts() -> None:
    """A box that is copied from the prompt is no answer; the examples' are no such prompt."""
    pairs = [("1+3=", "Adding them up, the answer is \\boxed{4}.")]
    prompt = Renderer().render(PLAIN, "2+2=", pairs)
    record = {"prompt": prompt.text, "response": pairs[0][1], "gold": "4"}
    (judged,) = judge_all([{**record, "own_prompt_at": prompt.own_at}], {})
    assert judged["correct"]
    (misled,) = judge_all([record], {})
    assert misled["reason"] == "no_answer"
