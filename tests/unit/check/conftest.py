"""A recipe without a fault, to be broken one way at a time."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from vespo_openrlhf.check.__main__ import main
from vespo_openrlhf.embedded.arithmetic import split_problems, write_jsonl
from vespo_openrlhf.embedded.tokenizer import build_tokenizer

CONFIGS = Path(__file__).parents[2] / "data" / "configs"
REWARD = Path(__file__).parents[3] / "reward" / "math_reward.py"

Check = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the config of Qwen3-8B and a small tokenizer; no weights are looked at."""
    folder = tmp_path_factory.mktemp("model")
    build_tokenizer().save_pretrained(folder)
    shutil.copy(CONFIGS / "Qwen3-8B-Base.json", folder / "config.json")
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """512 prompts of some 8 tokens."""
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    write_jsonl(path, split_problems(0, [512])[0])
    return path


@pytest.fixture
def good(model: Path, data: Path, tmp_path: Path) -> dict[str, str]:
    """Flags of an asynchronous run of Qwen3-8B on 8 GPUs that would start."""
    return {
        "actor.model_name_or_path": str(model),
        "data.prompt_dataset": str(data),
        "data.input_key": "prompt",
        "data.label_key": "label",
        "data.apply_chat_template": "",
        "data.max_len": "9216",
        "rollout.max_new_tokens": "8192",
        "reward.remote_url": str(REWARD),
        "actor.policy_loss_type": "vespo",
        "algo.advantage.estimator": "group_norm",
        "algo.kl.init_coef": "0",
        "train.async_enable": "",
        "train.partial_rollout_enable": "",
        "lag.max": "7",
        "rollout.batch_size": "128",
        "rollout.n_samples_per_prompt": "8",
        "train.batch_size": "256",
        "actor.gradient_checkpointing_enable": "",
        "actor.num_nodes": "1",
        "actor.num_gpus_per_node": "4",
        "ds.zero_stage": "3",
        "vllm.num_engines": "4",
        "vllm.gpu_memory_utilization": "0.9",
        "run.dir": str(tmp_path / "run"),
    }


@pytest.fixture
def check(capsys: pytest.CaptureFixture[str]) -> Check:
    """`check(flags, *options)`: the exit status and what was printed."""

    def run(flags: dict[str, str], *options: str) -> tuple[int, str]:
        words = [word for name, value in flags.items() for word in (f"--{name}", value) if word]
        status = main([*options, *words])
        return status, capsys.readouterr().out

    return run


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`rows({...}, {...})`: a file of these rows."""

    def write(*lines: dict) -> str:
        path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return str(path)

    return write
