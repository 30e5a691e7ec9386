"""What verl dumps of its rollouts."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest


def line(prompt: str, output: str, score: float, step: int = 1, **columns: object) -> dict:
    return {"input": prompt, "output": output, "score": score, "step": step} | columns


STRIPPED = "user\n{}\nassistant\n"  # by the embedded chat template, without special tokens


def test_steps_in_their_order_with_the_prompts_as_they_were(
    tmp_path: Path, take, write, text, chat, groups, parts
) -> None:
    one, two = STRIPPED.format("1+1="), STRIPPED.format("2+2=")
    write(tmp_path / "in" / "10.jsonl", [line(one, "4", 0.0, 10), line(two, "4", 1.0, 10)])
    first = [
        line(one, "2", 1.0, 9, gts="2", acc=True, format=0.5, pred="2"),
        line(two, "5", 0.0, 9, gts="4", acc=False, format=0.25, pred="5"),
    ]
    write(tmp_path / "in" / "9.jsonl", first)
    report, samples = take("verl", tmp_path / "in")
    assert (report.read, report.written, report.prompts, report.left_out) == (4, 4, 2, {})
    assert report.noted == {"restored": 4, "assumed_ended": 4}
    assert [text(sample) for sample in samples] == [
        (chat("1+1=") + "2<|im_end|>", "2<|im_end|>"),
        (chat("1+1=") + "4<|im_end|>", "4<|im_end|>"),
        (chat("2+2=") + "5<|im_end|>", "5<|im_end|>"),
        (chat("2+2=") + "4<|im_end|>", "4<|im_end|>"),
    ]
    assert [(s.ticket, s.sample, s.samples) for s in samples] == [
        (0, 0, 2),
        (0, 1, 2),
        (1, 0, 2),
        (1, 1, 2),
    ]
    assert [sample.reward for sample in samples] == [1.0, 0.0, 0.0, 1.0]
    assert parts(samples[0]) == {"step": 9.0, "acc": 1.0, "format": 0.5}
    assert (samples[0].label, samples[0].prompt) == ("2", chat("1+1="))
    assert {sample.finish_reason for sample in samples} == {"stop"}
    assert all(sample.log_probs is None for sample in samples)
    assert [[s.reward for s in group] for group in groups(tmp_path / "out", 2)] == [
        [1.0, 0.0],
        [0.0, 1.0],
    ]


def test_a_prompt_of_the_v1_trainers_is_one_of_a_step(tmp_path: Path, take, write) -> None:
    prompt = STRIPPED.format("1+1=")
    uids = ["a-b_0_0", "c_0_0", "a-b_1_0", "c_1_0", "plain"]
    rows = [line(prompt, str(i), i, uid=uid) for i, uid in enumerate(uids)]
    _, samples = take("verl", write(tmp_path / "1.jsonl", rows))
    found = [(s.prompt_id, s.sample, s.samples, s.reward) for s in samples]
    assert found == [
        ("a-b", 0, 2, 0.0),
        ("a-b", 1, 2, 2.0),
        ("c", 0, 2, 1.0),
        ("c", 1, 2, 3.0),
        ("plain", 0, 1, 4.0),
    ]


@pytest.mark.parametrize(
    "messages",
    [
        [("system", "Be brief."), ("user", "1+1=")],
        [("user", "1+1="), ("assistant", "2"), ("user", "and\nplus 1?")],
        [("system", "a"), ("user", "b"), ("assistant", "c"), ("user", "d")],
        [("user", "of two\n\nparagraphs, with [.*] in it")],
    ],
)
def test_prompts_of_several_messages_are_restored(
    tmp_path: Path, take, write, tokenizer, messages: list[tuple[str, str]]
) -> None:
    chat = [{"role": role, "content": content} for role, content in messages]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    prompt = tokenizer.decode(ids, skip_special_tokens=True)
    report, (sample,) = take("verl", write(tmp_path / "1.jsonl", [line(prompt, "3", 1.0)]))
    assert report.noted["restored"] == 1
    assert sample.tokens[: len(ids)].tolist() == ids
    assert not sample.action_mask[: len(ids)].any()


def test_a_prompt_that_no_template_explains_is_taken_as_it_is(
    tmp_path: Path, take, write, text
) -> None:
    report, (sample,) = take("verl", write(tmp_path / "1.jsonl", [line("Q: 1+1? A:", "2", 1.0)]))
    assert report.noted["as_text"] == 1
    assert text(sample) == ("Q: 1+1? A:2<|im_end|>", "2<|im_end|>")


def test_what_cannot_be_seen_between_messages_is_a_guess(
    tmp_path: Path, take, write, tokenizer
) -> None:
    import copy

    plain = copy.deepcopy(tokenizer)
    plain.chat_template = (
        "{%- for m in messages -%}{{- '<|im_start|>' + m['content'] -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_end|>' -}}{%- endif -%}"
    )
    source = write(tmp_path / "1.jsonl", [line("Be brief.1+1=", "2", 1.0)])
    report, (sample,) = take("verl", source, tokenizer=plain)
    assert report.noted["guessed"] == 1
    assert plain.decode(sample.tokens) == "<|im_start|>Be brief.1+1=<|im_end|>2<|im_end|>"


def test_a_response_of_the_longest_length_was_cut_off(tmp_path: Path, take, write, text) -> None:
    rows = [line("Q", "12345", 0.0), line("Q", "1234", 1.0)]
    report, samples = take("verl", write(tmp_path / "1.jsonl", rows), max_response_tokens=5)
    assert [sample.finish_reason for sample in samples] == ["length", "stop"]
    assert [text(sample)[1] for sample in samples] == ["12345", "1234<|im_end|>"]
    assert "assumed_ended" not in report.noted


def test_what_cannot_be_used_is_counted(tmp_path: Path, take, write) -> None:
    prompt = STRIPPED.format("1+1=")
    turns = "<tool>1+1</tool>\nuser\n2\nassistant\nIt is 2."
    rows: list[object] = [
        line(prompt, "2", 1.0),
        "{not json",
        "[1]",
        line("", "2", 1.0),
        {"input": prompt, "score": 1.0},
        line(prompt, "", 1.0),
        line(prompt, "2", float("nan")),
        line(prompt, "2", float("inf")),
        {"input": prompt, "output": "2", "step": 1},
        line(prompt, "2", "good"),
        line(prompt, ["2"], 1.0),
        line(prompt, turns, 1.0),
        line(prompt, "\ud800", 1.0),
        line(prompt, "2", 1.0, uid="p_0_0"),
        line(STRIPPED.format("2+2="), "2", 1.0, uid="p_0_1"),
    ]
    report, samples = take("verl", write(tmp_path / "1.jsonl", rows))
    assert report.left_out == Counter(
        not_json=2,
        no_prompt=1,
        no_response=2,
        not_finite=3,
        no_reward=1,
        not_text=2,
        several_turns=1,
        prompt_differs=1,
    )
    assert report.read == len(rows) == report.written + report.left_out.total()
    assert len(samples) == report.written
    assert report.places["not_json"] == f"{tmp_path / '1.jsonl'}:2"
    assert "2 not_json: a line that is no JSON object (first: " in report.account()


def test_nothing_left_is_an_error_that_counts(tmp_path: Path, take, write) -> None:
    source = write(tmp_path / "1.jsonl", ["nothing", line("Q", "", 1.0)])
    with pytest.raises(ValueError, match=r"of 2 rows none can be used:\s+1 not_json[\s\S]+1 no_re"):
        take("verl", source)
    assert not (tmp_path / "out").exists()


def test_no_such_source(tmp_path: Path, take) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        take("verl", tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"holds none of verl's STEP.jsonl files"):
        take("verl", tmp_path)


def test_what_verl_writes_as_json_is_read(tmp_path: Path, take, write, parts) -> None:
    """Its `default=str` makes text of what JSON does not know."""
    row = line("Q", "2", 1.0, gts={"answer": 2}, extra="2024-01-01", none=None)
    _, (sample,) = take("verl", write(tmp_path / "1.jsonl", [json.dumps(row, default=str)]))
    assert (sample.label, parts(sample)) == ('{"answer": 2}', {"step": 1.0})
