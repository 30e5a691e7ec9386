"""Round trips and chat template of the embedded tokenizer."""

from __future__ import annotations

import random
import string
from pathlib import Path

import jinja2
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vespo_openrlhf.embedded.arithmetic import Problem, sample_problems, worked_solution
from vespo_openrlhf.embedded.model import demonstrations
from vespo_openrlhf.embedded.options import MAX_RESPONSE_TOKENS
from vespo_openrlhf.embedded.tokenizer import (
    END,
    PAD,
    SPECIAL_TOKENS,
    START,
    UNK,
    build_tokenizer,
    chat_text,
    vocabulary,
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """Saved and loaded again the way every user of the folder does it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer().save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_saved_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        build_tokenizer().save_pretrained(tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert "tokenizer.json" in names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_loaded_tokenizer_knows_its_special_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.is_fast
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token) == (END, PAD, UNK)
    assert len(tokenizer) == len(vocabulary())
    assert len({tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}) == 3
    for token in SPECIAL_TOKENS:
        assert tokenizer.convert_ids_to_tokens(tokenizer.encode(token)) == [token]


@pytest.mark.parametrize(
    "text",
    [
        "347+586=",
        "7+6=13\n4+8+1=13\n3+5+1=9\n\\boxed{933}" + END,
        f"{START}user\n1+1={END}\n{START}assistant\n{PAD}{PAD}",
        "  two  spaces , a comma ; don't \n\n end ",
        "\\boxed \\boxed{ boxed{ users assistants systematic",
        "".join(c for c in map(chr, range(128)) if c in string.printable and c.isprintable()),
        "",
    ],
)
def test_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text) == ids
    assert tokenizer.unk_token_id not in ids


def test_round_trip_of_random_text(tokenizer: PreTrainedTokenizerFast) -> None:
    rng = random.Random(0)
    tokens = list(vocabulary())
    for _ in range(200):
        text = "".join(rng.choices(tokens, k=30))
        assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_box_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("\\boxed{12}") == ["\\boxed{", "1", "2", "}"]


@pytest.mark.parametrize("text", ["é", "\t", "漢字", "😀", "\x00", "a\u0301", "\r\n"])
def test_unknown_characters_become_unk(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert len(ids) == len(text)
    assert tokenizer.unk_token_id in ids


def test_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    assert chat_text(tokenizer, "1+1=") == (
        "<|im_start|>user\n1+1=<|im_end|>\n<|im_start|>assistant\n"
    )
    chat = [
        {"role": "system", "content": "Add."},
        {"role": "user", "content": "1+1="},
        {"role": "assistant", "content": "2"},
    ]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == (
        "<|im_start|>system\nAdd.<|im_end|>\n"
        "<|im_start|>user\n1+1=<|im_end|>\n"
        "<|im_start|>assistant\n2<|im_end|>\n"
    )


def test_chat_template_refuses_images(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = [{"role": "user", "content": [{"type": "image"}]}]
    with pytest.raises(jinja2.TemplateError, match="text only"):
        tokenizer.apply_chat_template(chat, tokenize=False)


def test_training_saw_the_ids_that_the_engine_makes(tokenizer: PreTrainedTokenizerFast) -> None:
    """Prompt ids and response ids, each encoded alone, are what the warm start trained on."""
    problems = sample_problems(random.Random(0), 50)
    ids, labels = demonstrations(tokenizer, problems, 0.0, seed=0)
    for problem, row, label in zip(problems, ids.tolist(), labels.tolist(), strict=True):
        text = chat_text(tokenizer, problem.prompt)
        prompt = tokenizer.encode(text, add_special_tokens=False)
        response = tokenizer.encode(worked_solution(problem) + END, add_special_tokens=False)
        seen = prompt + response
        padding = len(row) - len(seen)
        assert row == seen + [tokenizer.pad_token_id] * padding
        assert label == [-100] * len(prompt) + response + [-100] * padding


def test_longest_solution_fits(tokenizer: PreTrainedTokenizerFast) -> None:
    longest = tokenizer.encode(worked_solution(Problem(999, 999)) + END)
    assert len(longest) == 32 <= MAX_RESPONSE_TOKENS
