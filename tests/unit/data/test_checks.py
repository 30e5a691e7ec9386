"""A run's model, reward and prompts, checked before anything starts."""

import json
from pathlib import Path

import pytest

from vespo_openrlhf.data.checks import check_prompts, load_reward
from vespo_openrlhf.models import check_model, experts


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def check(path: str, **changes) -> None:
    check_prompts(
        path, **({"input_key": "prompt", "label_key": "label", "split": "train"} | changes)
    )


@pytest.fixture
def rows(tmp_path: Path) -> str:
    return write_rows(
        tmp_path / "rows.jsonl", [{"prompt": f"{i}+1=", "label": str(i + 1)} for i in range(5)]
    )


def test_good_prompts_pass(rows: str) -> None:
    check(rows)
    check(rows, label_key=None)
    check(rows, label_problems=lambda labels: [None] * len(labels))


@pytest.mark.parametrize(("key", "flag"), [("input_key", "input"), ("label_key", "label")])
def test_a_missing_column_is_named_with_those_there_are(rows: str, key: str, flag: str) -> None:
    with pytest.raises(ValueError, match=rf"--data\.{flag}_key answer: .* it has prompt, label"):
        check(rows, **{key: "answer"})


def test_bad_labels_are_counted_and_the_first_three_shown(rows: str) -> None:
    with pytest.raises(ValueError, match="5 of the labels") as error:
        check(rows, label_problems=lambda labels: ["odd one"] * len(labels))
    assert str(error.value).count("odd one") == 3


def test_an_empty_file_a_missing_file_and_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no such file"):
        check(str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match="is empty"):
        check(write_rows(tmp_path / "empty.jsonl", []))
    (tmp_path / "broken.jsonl").write_text("{not json\n")
    with pytest.raises(ValueError, match="cannot be read"):
        check(str(tmp_path / "broken.jsonl"))
    with pytest.raises(ValueError, match=r"--data\.prompt_dataset is missing"):
        check("")


def test_a_file_has_no_other_split(rows: str) -> None:
    with pytest.raises(ValueError, match=r"--data\.prompt_split test: .* only the split train"):
        check(rows, split="test")


def test_model_folders(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is missing"):
        check_model(None)
    with pytest.raises(ValueError, match="there is no such folder"):
        check_model(str(tmp_path / "none"))
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        check_model(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds no tokenizer"):
        check_model(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    check_model(str(tmp_path))


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    adapter = tmp_path / "model" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-4B"}')
    with pytest.raises(ValueError, match=r"not a model: .* give the folder above") as refused:
        check_model(str(adapter))
    assert f"--model_path Qwen/Qwen3-4B --lora_path {adapter} " in str(refused.value)


def test_reward_files(tmp_path: Path) -> None:
    path = tmp_path / "reward.py"
    with pytest.raises(ValueError, match="there is no such file"):
        load_reward(str(path))
    path.write_text("import nothing_of_this_name")
    with pytest.raises(ValueError, match="does not import"):
        load_reward(str(path))
    path.write_text("x = 1")
    with pytest.raises(ValueError, match="defines no reward_func"):
        load_reward(str(path))
    path.write_text("def reward_func(queries, prompts, labels): ...")
    assert callable(load_reward(str(path))["reward_func"])


@pytest.mark.parametrize(
    ("model", "number"),
    [
        ({"num_experts": 128, "num_experts_per_tok": 8}, 128),  # Qwen3-MoE
        ({"num_local_experts": 8}, 8),  # Mixtral, gpt-oss
        ({"n_routed_experts": 256, "n_shared_experts": 1}, 256),  # DeepSeek, GLM
        ({"text_config": {"moe_num_experts": 64}}, 64),
        ({"ffn_config": {"moe_num_experts": 16}}, 16),  # DBRX
        ({"num_experts_per_tok": 8, "num_experts": None}, 0),
        ({"n_shared_experts": 1, "num_attention_heads": 32}, 0),
    ],
)
def test_experts_are_counted_by_any_name(model: dict, number: int) -> None:
    assert experts(model) == number
