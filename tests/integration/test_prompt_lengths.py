"""Prompts measured before a run, as OpenRLHF will put them to the model, and left out if asked."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from openrlhf.datasets import PromptDataset
from transformers import AutoTokenizer

from vespo_openrlhf.bridge.run.dataset import check_lengths, settle_lengths
from vespo_openrlhf.embedded.model import build_model
from vespo_openrlhf.embedded.tokenizer import build_tokenizer

LIMIT = 32
# Around the limit and far from it; one character that is several tokens.
PROMPTS = [
    *("1" * length for length in (1, 20, 26, 27, 28, 29, 30, 31, 32, 33, 34, 200)),
    "é" * 20,
    "é" * 12,
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


def flags(folder: Path, texts: list[Any], **changes: Any) -> dict[str, Any]:
    data = folder / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": t, "label": "1"}) + "\n" for t in texts))
    return {
        "actor.model_name_or_path": str(folder / "model"),
        "data.apply_chat_template": False,
        "data.disable_fast_tokenizer": False,
        "data.input_key": "prompt",
        "data.input_template": None,
        "data.max_len": 2 * LIMIT,
        "data.max_samples": 1000,
        "data.overlong_prompts": "refuse",
        "data.prompt_dataset": str(data),
        "data.prompt_split": "train",
        "eval.dataset": None,
        "eval.split": "train",
        "rollout.max_new_tokens": LIMIT,
        "train.agent_func_path": None,
    } | {name.replace("__", "."): value for name, value in changes.items()}


def as_openrlhf_puts_them(given: dict[str, Any]) -> tuple[PromptDataset, Any]:
    rows = map(json.loads, Path(given["data.prompt_dataset"]).read_text().splitlines())
    data = {key: given[f"data.{key}"] for key in ("input_key", "apply_chat_template")}
    strategy = SimpleNamespace(
        args=SimpleNamespace(data=SimpleNamespace(**data, label_key="label")),
        is_rank_0=lambda: False,
    )
    tokenizer = AutoTokenizer.from_pretrained(given["actor.model_name_or_path"])
    return PromptDataset(rows, tokenizer, strategy, given["data.input_template"]), tokenizer


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"data__input_template": "Question: {}\nAnswer:"},
        {"data__apply_chat_template": True},
        {"data__apply_chat_template": True, "messages": True},
    ],
)
def test_the_rows_are_those_that_openrlhf_would_cut(folder: Path, form: dict[str, Any]) -> None:
    form = dict(form)
    as_messages = form.pop("messages", False)
    texts = [[{"role": "user", "content": p}] for p in PROMPTS] if as_messages else PROMPTS
    given = flags(folder, texts, **form)
    dataset, tokenizer = as_openrlhf_puts_them(given)
    tokens = [len(tokenizer(p, add_special_tokens=False)["input_ids"]) for p in dataset.prompts]
    cut = [row for row, count in enumerate(tokens) if count > LIMIT]
    assert 0 < len(cut) < len(texts)
    with pytest.raises(ValueError, match="would lose their beginning") as refused:
        check_lengths(given)
    assert f"{len(cut)} of {len(texts)} prompts" in str(refused.value)
    assert ", ".join(f"row {row}: {tokens[row]}" for row in cut[:3]) in str(refused.value)
    assert f"raise --data.max_len to at least {LIMIT + max(tokens)}" in str(refused.value)

    kept = [prompt for row, prompt in enumerate(dataset.prompts) if row not in cut]
    settle_lengths(dataset, tokenizer, given | {"data.overlong_prompts": "skip"})
    assert dataset.prompts == kept
    assert len(dataset) == len(dataset.labels) == len(dataset.images) == len(kept)
    assert len(dataset.datasources) == len(kept)


def test_prompts_that_fit_pass_and_those_beyond_the_samples_do_not_count(folder: Path) -> None:
    check_lengths(flags(folder, ["1" * LIMIT] * 3))
    check_lengths(flags(folder, ["1", "1" * 99], data__max_samples=1))
    check_lengths(flags(folder, ["1" * 99], data__overlong_prompts="skip"))
    check_lengths(flags(folder, ["1" * 63], rollout__max_new_tokens=None))


def test_data_that_is_not_here_is_refused_by_the_trainer(folder: Path) -> None:
    given = flags(folder, ["1", "1" * 99])
    check_lengths(given | {"data.prompt_dataset": "some/hub-dataset"})
    dataset, tokenizer = as_openrlhf_puts_them(given)
    with pytest.raises(ValueError, match="1 of 2 prompts"):
        settle_lengths(dataset, tokenizer, given)


def test_skipping_everything_leaves_nothing_to_train_on(folder: Path) -> None:
    given = flags(folder, ["1" * 99], data__overlong_prompts="skip")
    dataset, tokenizer = as_openrlhf_puts_them(given)
    with pytest.raises(ValueError, match="no prompt is left: 1 of 1"):
        settle_lengths(dataset, tokenizer, given)


def test_evaluation_problems_are_measured_whatever_becomes_of_prompts(folder: Path) -> None:
    long = folder / "problems.jsonl"
    long.write_text(json.dumps({"prompt": "1" * 99, "label": "1"}) + "\n")
    given = flags(folder, ["1"], data__overlong_prompts="skip", eval__dataset=str(long))
    with pytest.raises(ValueError, match=r"1 of 1 prompts of --eval\.dataset") as refused:
        check_lengths(given)
    assert "skip" not in str(refused.value)


def test_a_tokenizer_without_a_chat_template_is_refused(folder: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(folder / "model", tmp_path / "model")
    (tmp_path / "model" / "chat_template.jinja").unlink()
    given = flags(tmp_path, ["1"], data__apply_chat_template=True)
    with pytest.raises(ValueError, match="has no chat template"):
        check_lengths(given)
