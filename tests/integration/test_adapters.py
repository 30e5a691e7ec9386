"""LoRA under the real DeepSpeed, on two ranks: what is published, written and gone on with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

from vespo_openrlhf.embedded.tokenizer import build_tokenizer

SETUPS = ("0-fp32-tied", "1-bf16-untied", "2-fp32-untied", "3-fp32-tied", "3-bf16-untied")
ADAPTED = 14  # linear layers of two layers


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for tied in (False, True):
        config = Qwen2Config(
            vocab_size=97,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.2,
            tie_word_embeddings=tied,
            bos_token_id=None,
            eos_token_id=None,
        )
        Qwen2ForCausalLM(config).save_pretrained(tmp_path / f"tied-{tied}")
        build_tokenizer().save_pretrained(tmp_path / f"tied-{tied}")
    return tmp_path


def test_every_stage_publishes_writes_and_resumes_the_merged_model(
    run_on_deepspeed: Callable[..., str], models: Path
) -> None:
    output = run_on_deepspeed("deepspeed_adapters.py", models, *SETUPS, ranks=2)
    runs = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert tuple(run["setup"] for run in runs) == SETUPS
    for run in runs:
        half = "bf16" in run["setup"]
        assert run["start"] == run["frozen"] == 0, run  # bit for bit, after all updates
        assert run["changed"] == ADAPTED, run
        assert run["merged"] <= (2e-2 if half else 1e-6), run  # peft rounds twice
        assert run["log_probs"] <= (0.3 if half else 1e-4), run
        assert run["written"] == run["resumed"] == run["resumed_later"] == 0, run
    same = [run["sum"] for run in runs if run["setup"] in ("0-fp32-tied", "3-fp32-tied")]
    assert same[0] == pytest.approx(same[1], rel=1e-6)
