"""Chats in OpenAI's format, with rewards."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vespo_openrlhf.embedded.tokenizer import CHAT_TEMPLATE

END = "<|im_end|>"


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def told(pieces: list[str], first: float = -1.0, **more: Any) -> dict[str, Any]:
    """Log-probs of these tokens, in OpenAI's shape: -1, -2, ..."""
    content = [
        {"token": piece, "logprob": first - i, "bytes": list(piece.encode()), "top_logprobs": []}
        for i, piece in enumerate(pieces)
    ]
    return {"content": content, **more}


def test_the_last_message_is_the_response(
    tmp_path: Path, take, write, text, chat, groups, parts
) -> None:
    rows = [
        {"messages": [user("1+1="), said("2")], "reward": 1.0, "rewards": {"right": 1, "why": "-"}},
        {"messages": [user("2+2="), said("5")], "reward": 0, "label": "4"},
        {"messages": [user("1+1="), said("3"), user("Thanks.")], "reward": 0.0},
    ]
    report, samples = take("chat", write(tmp_path / "chats.jsonl", rows))
    assert (report.read, report.written, report.prompts, report.left_out) == (3, 3, 2, {})
    assert [(text(s), s.reward) for s in samples] == [
        ((chat("1+1=") + f"2{END}", f"2{END}"), 1.0),
        ((chat("1+1=") + f"3{END}", f"3{END}"), 0.0),
        ((chat("2+2=") + f"5{END}", f"5{END}"), 0.0),
    ]
    assert (parts(samples[0]), samples[2].label) == ({"right": 1.0}, "4")
    assert [(s.log_probs, s.turns) for s in samples] == [(None, ())] * 3
    assert len({s.prompt_id for s in samples}) == 2
    assert len(groups(tmp_path / "out", 2)) == 2


def test_every_message_of_the_assistant_was_sampled(
    tmp_path: Path, take, write, text, chat
) -> None:
    messages = [user("1+1="), said("3"), user("no"), said("2")]
    source = write(tmp_path / "chats.jsonl", [{"messages": messages, "reward": 1.0}])
    _, (sample,) = take("chat", source)
    whole = chat("1+1=") + f"3{END}\n" + chat("no") + f"2{END}"
    assert text(sample) == (whole, f"3{END}2{END}")
    assert sample.prompt == chat("1+1=")
    (first, end, reward), (second, last, _) = sample.turns
    assert (sample.action_mask[first:end].all(), sample.action_mask[second:last].all()) == (1, 1)
    assert sample.action_mask.sum() == end - first + last - second == 4
    assert last == len(sample.tokens)
    assert math.isnan(reward)


def test_only_the_last_or_those_of_some_weight(tmp_path: Path, take, write, text, chat) -> None:
    messages = [user("1+1="), said("3"), user("no"), said("2")]
    whole = chat("1+1=") + f"3{END}\n" + chat("no") + f"2{END}"
    source = write(tmp_path / "chats.jsonl", [{"messages": messages, "reward": 1.0}])
    _, (sample,) = take("chat", source, turns="last")
    assert text(sample) == (whole, f"2{END}")

    weighed = [{"messages": [messages[0], said("3", weight=0), *messages[2:]], "reward": 1.0}]
    (tmp_path / "out" / "000000.parquet").unlink()
    _, (sample,) = take("chat", write(tmp_path / "weighed.jsonl", weighed))
    assert text(sample) == (whole, f"2{END}")


def test_choices_are_samples_of_their_own(tmp_path: Path, take, write, text) -> None:
    choices = [
        {"message": said("2"), "finish_reason": "stop", "reward": 1.0},
        {"message": said("22"), "finish_reason": "length", "reward": 0.0},
        {"message": said("3"), "finish_reason": "content_filter"},
    ]
    row = {"messages": [user("1+1=")], "choices": choices, "reward": 0.5, "prompt_id": "one"}
    report, samples = take("chat", write(tmp_path / "chats.jsonl", [row]))
    assert [(text(s)[1], s.finish_reason, s.reward) for s in samples] == [
        (f"2{END}", "stop", 1.0),
        ("22", "length", 0.0),
        (f"3{END}", "stop", 0.5),
    ]
    assert {(s.ticket, s.samples, s.prompt_id) for s in samples} == {(0, 3, "one")}
    assert report.noted == {"assumed_ended": 1}


def test_log_probs_that_fit(tmp_path: Path, take, write, groups) -> None:
    """Of a server that tells of the end, of one that does not, and of one that was cut off."""
    pieces = ["2", "user", "3"]  # one token, by the embedded tokenizer
    whole = [user("1+1="), said("2user3")]
    rows = [
        {"messages": whole, "reward": 1.0, "logprobs": told([*pieces, END])},
        {"messages": whole, "reward": 1.0, "choices": [{"logprobs": told(pieces)}]},
        {
            "messages": [user("1+1="), said("2user3", logprobs=told(pieces))],
            "finish_reason": "length",
            "reward": 1.0,
        },
    ]
    report, samples = take("chat", write(tmp_path / "chats.jsonl", rows))
    assert report.noted == {"assumed_ended": 2, "end_unknown": 1}
    ended, unended, cut = samples
    assert ended.log_probs[ended.action_mask].tolist() == [-1.0, -2.0, -3.0, -4.0]
    assert unended.log_probs[unended.action_mask].tolist() == [-1.0, -2.0, -3.0]
    assert not unended.action_mask[-1]
    assert unended.tokens.tolist() == ended.tokens.tolist() == [*cut.tokens, ended.tokens[-1]]
    assert cut.log_probs[cut.action_mask].tolist() == [-1.0, -2.0, -3.0]
    assert ended.log_probs.dtype == numpy.float32
    assert not ended.log_probs[~ended.action_mask].any()
    assert len(groups(tmp_path / "out", 3)) == 1


def test_log_probs_of_every_turn_or_of_none(tmp_path: Path, take, write) -> None:
    def row(first: Any, second: Any) -> dict[str, Any]:
        messages = [user("1+1="), said("3", logprobs=first), user("no"), said("2", logprobs=second)]
        return {"messages": messages, "reward": 1.0}

    ends = told(["3", END]), told(["2", END], -5.0)
    report, samples = take(
        "chat", write(tmp_path / "chats.jsonl", [row(*ends), row(ends[0], None)])
    )
    assert samples[0].log_probs[samples[0].action_mask].tolist() == [-1.0, -2.0, -5.0, -6.0]
    assert samples[1].log_probs is None
    assert report.noted == {"assumed_ended": 2, "not_aligned": 1}


@pytest.mark.parametrize(
    "logprobs",
    [
        told(["2u", "ser3"]),  # cut elsewhere
        told(["2", "user", "4"]),  # another text
        told(["2", "user"]),  # not all of it
        told(["2", "user", "3", "x"]),  # more than it
        {"content": [{"token": "2"}, {"token": "user"}, {"token": "3"}]},
        told(["2", "user", "3"], -9997.0),  # OpenAI's mark of a token that was unlikely
        told(["2", "user", "3"], math.nan),
        {"content": "2"},
    ],
)
def test_log_probs_that_do_not_fit_are_not_known(
    tmp_path: Path, take, write, text, chat, logprobs: Any
) -> None:
    row = {"messages": [user("1+1="), said("2user3")], "reward": 1.0, "logprobs": logprobs}
    report, (sample,) = take("chat", write(tmp_path / "chats.jsonl", [row]))
    assert sample.log_probs is None
    assert text(sample) == (chat("1+1=") + f"2user3{END}", f"2user3{END}")
    assert report.left_out == {}
    assert report.noted["not_aligned"] == 1


def test_tokens_that_a_server_numbered_are_taken(tmp_path: Path, take, write, tokenizer) -> None:
    """vLLM's return_tokens_as_token_ids: the policy may have cut its text otherwise."""
    ids = tokenizer.convert_tokens_to_ids(list("2user3"))
    assert ids != tokenizer("2user3")["input_ids"]
    pieces = [f"token_id:{token}" for token in [*ids, tokenizer.eos_token_id]]
    rows = [
        {"messages": [user("1+1="), said(content)], "reward": 1.0, "logprobs": told(pieces)}
        for content in ("2user3", "2user4")
    ]
    report, samples = take("chat", write(tmp_path / "chats.jsonl", rows))
    sampled = samples[0].tokens[samples[0].action_mask].tolist()
    assert sampled == [*ids, tokenizer.eos_token_id]
    assert samples[0].log_probs[samples[0].action_mask].tolist() == [-1.0 - i for i in range(7)]
    assert samples[1].log_probs is None
    assert report.noted["not_aligned"] == 1


@pytest.fixture(scope="module", params=[False, True])
def bytes_tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    """Byte-level BPE, whose tokens begin with a space and can be part of a character; with offsets
    that leave the space out, and such that do not."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    from tokenizers import processors

    backend.post_processor = processors.ByteLevel(trim_offsets=request.param)
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|im_start|>", END],
        show_progress=False,
    )
    backend.train_from_iterator(["the sum of the two is the answer"] * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token=END, chat_template=CHAT_TEMPLATE
    )


def test_tokens_of_bytes(tmp_path: Path, take, write, bytes_tokenizer) -> None:
    """A token that is a part of a character is told by its bytes alone."""
    content = "the sum  of 🙂é\n\n is"
    decoder = {v: k for k, v in _byte_characters().items()}
    ids = bytes_tokenizer(content)["input_ids"]
    assert len(ids) > 10
    pieces = [
        bytes(decoder[character] for character in token)
        for token in bytes_tokenizer.convert_ids_to_tokens(ids)
    ]
    assert b"".join(pieces) == content.encode()

    def row(pieces: list[bytes]) -> dict[str, Any]:
        logprobs = [
            {"token": piece.decode(errors="replace"), "bytes": list(piece), "logprob": -1.0 - i}
            for i, piece in enumerate(pieces)
        ]
        messages = [user("Q"), said(content)]
        return {"messages": messages, "reward": 1.0, "logprobs": {"content": logprobs}}

    moved = [pieces[0] + pieces[1][:2], pieces[1][2:], *pieces[2:]]
    joined = [*pieces[:-2], pieces[-2] + pieces[-1]]
    rows = [row(each) for each in (pieces, moved, joined)]
    report, samples = take("chat", write(tmp_path / "chats.jsonl", rows), tokenizer=bytes_tokenizer)
    known = samples[0].log_probs[samples[0].action_mask].tolist()
    assert known == [-1.0 - i for i in range(len(ids))]
    assert samples[0].tokens[samples[0].action_mask].tolist() == ids
    assert [sample.log_probs for sample in samples[1:]] == [None, None]
    assert report.noted["not_aligned"] == 2


def _byte_characters() -> dict[int, str]:
    """Of GPT-2: which character stands for which byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    return {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(others)}


def test_what_cannot_be_used_is_counted(tmp_path: Path, take, write) -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    image = [{"type": "image_url", "image_url": {"url": "x"}}]
    asked = [user("1+1=")]
    rows: list[Any] = [
        {"messages": [*asked, said("2")], "reward": 1.0},
        "{cut off",
        {"reward": 1.0},
        {"messages": [said("2")], "reward": 1.0},
        {"messages": asked, "reward": 1.0},
        {"messages": [*asked, said("")], "reward": 1.0},
        {"messages": [*asked, said("2")]},
        {"messages": [*asked, said("2")], "reward": float("nan")},
        {"messages": "2", "reward": 1.0},
        {"messages": [user(image), said("2")], "reward": 1.0},  # type: ignore[arg-type]
        {"messages": [*asked, {"role": "assistant", "tool_calls": [call]}], "reward": 1.0},
        {"messages": [*asked, said("2", reasoning_content="Hm")], "reward": 1.0},
        {"messages": [*asked, said("3"), said("2")], "reward": 1.0},
        {"messages": asked, "choices": [{"message": said("2")}, {"text": "2"}], "reward": 1.0},
    ]
    report, samples = take("chat", write(tmp_path / "chats.jsonl", rows))
    assert report.left_out == Counter(
        not_json=1,
        no_prompt=2,
        no_response=3,
        no_reward=1,
        not_finite=1,
        not_text=2,
        apart=2,
        template=1,
    )
    assert report.read == len(rows)
    assert len(samples) == report.written == 1


def test_parts_of_text_are_joined(tmp_path: Path, take, write, text, chat) -> None:
    parts = [{"type": "text", "text": "1+"}, {"type": "text", "text": "1="}]
    row = {"messages": [{"role": "user", "content": parts}, said("2")], "reward": 1.0}
    _, (sample,) = take("chat", write(tmp_path / "chats.jsonl", [row]))
    assert text(sample)[0] == chat("1+1=") + f"2{END}"
