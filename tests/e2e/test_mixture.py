"""A mixture of experts on the CPU stack: its weights reach the engine at every sync."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, Qwen3MoeForCausalLM

from vespo_openrlhf.embedded.model import build_model, reproducible

HERE = Path(__file__).parent
BATCHES = 5
# Where two experts are level to the last bits, the two sides may take different ones. Between two
# attention implementations of transformers that was so in one sample of 960 of this shape.
TIES = 4
Run = Any  # conftest's


@pytest.fixture(scope="module")
def mixture(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained mixture whose router is sure of its choice: it gives the first of
    its experts 0.85 of a token."""
    folder = tmp_path_factory.mktemp("mixture")
    tokenizer = AutoTokenizer.from_pretrained(untrained / "model")
    with reproducible(0):
        model = build_model(tokenizer, moe=True)
        for layer in model.model.layers:
            layer.mlp.gate.weight.data *= 10
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_engine_and_trainer_agree_at_lag_0_after_every_sync(
    train: Callable[..., Run], mixture: Path, tmp_path: Path
) -> None:
    run = train(
        environment={"VESPO_TEST_CAPTURE": str(tmp_path)},
        actor__model_name_or_path=mixture,
        actor__policy_loss_type=f"{HERE / 'capturing_loss.py'}:capture",
        actor__adam__lr="1e-2",
        data__max_samples=16 * BATCHES,
        train__batch_size=64,  # one update a batch, and so lag 0 in every one
        train__micro_batch_size=64,
        vllm__weight_tolerance=0,  # which would stop at the first that is wrong
    )
    calls = [torch.load(path) for path in sorted(tmp_path.glob("*.pt"))]
    assert len(calls) == BATCHES
    for call in calls:
        gap = (call["log_probs"] - call["rollout_log_probs"]).abs()
        gap = gap.masked_fill(~call["action_mask"].bool(), 0.0)
        assert gap.shape[0] == 64
        worst = gap.amax(-1).sort().values
        assert worst[-1 - TIES] < 1e-5, worst
    assert all(line["lag/max"] == 0 for line in run.metrics)

    # The experts were trained, and their updates are ones that one would see.
    before, after = (
        Qwen3MoeForCausalLM.from_pretrained(path) for path in (mixture, run.folder / "model")
    )
    for old, new in zip(before.model.layers, after.model.layers, strict=True):
        change = new.mlp.experts.down_proj - old.mlp.experts.down_proj
        assert change.abs().mean() > 1e-3
