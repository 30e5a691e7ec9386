"""A model in pieces: under the names it was loaded by, with adapters merged in, nothing changed.

Under DeepSpeed: tests/integration/test_adapters.py.
"""

import copy
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, Qwen2Config, Qwen2ForCausalLM

from vespo_openrlhf.bridge.weights.pieces import Piece, buckets, gathered, pieces

SIZES = {"vocab_size": 61, "bos_token_id": None, "eos_token_id": None}


def qwen2(tied: bool = False) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=tied,
        **SIZES,
    )
    return Qwen2ForCausalLM(config)


def gpt2() -> GPT2LMHeadModel:
    """Its layers keep their weights transposed, and its output layer is its embedding."""
    return GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, **SIZES))


def adapted(model: Any, targets: Any = "all-linear", **options: Any) -> Any:
    """With an adapter that is no longer nothing."""
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=6,
        target_modules=targets,
        init_lora_weights=False,
        **options,
    )
    return peft.get_peft_model(model, config)


@pytest.mark.parametrize("kind", ["qwen2", "qwen2-tied", "gpt2"])
def test_a_model_without_adapters_is_its_parameters(kind: str) -> None:
    model = gpt2() if kind == "gpt2" else qwen2(tied=kind == "qwen2-tied")
    found = [(piece.name, piece.tensor().data_ptr()) for piece in pieces(model)]
    assert found == [(name, p.data_ptr()) for name, p in model.named_parameters()]


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("kind", ["qwen2", "qwen2-tied", "gpt2"])
def test_adapters_are_merged_beside_the_weights(kind: str, rslora: bool) -> None:
    model = gpt2() if kind == "gpt2" else qwen2(tied=kind == "qwen2-tied")
    names = [name for name, _ in model.named_parameters()]
    policy = adapted(model, use_rslora=rslora, lora_dropout=0.1)
    before = copy.deepcopy(policy.state_dict())
    found = pieces(policy)
    merged = {piece.name: piece.tensor() for piece in found}
    assert [*merged] == names
    assert sum(piece.adapter is not None for piece in found) == (8 if kind == "gpt2" else 14)
    assert {piece.name for piece in found if piece.trained} == {
        piece.name for piece in found if piece.adapter
    }
    after = policy.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    expected = policy.merge_and_unload().state_dict()
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)


def test_it_is_merged_in_float32_and_rounded_once() -> None:
    policy = adapted(qwen2().bfloat16())
    piece = next(piece for piece in pieces(policy) if piece.adapter)
    assert piece.adapter is not None
    up, down = piece.adapter.up.double(), piece.adapter.down.double()
    exact = piece.weight.double() + piece.adapter.scaling * up @ down
    assert torch.equal(piece.tensor(), exact.float().bfloat16())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targets": ["embed_tokens"]}, "model.embed_tokens, peft's Embedding"),
        ({"use_dora": True}, "self_attn.q_proj, peft's Linear, is not plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, "lm_head, peft's ModulesToSaveWrapper"),
        ({"lora_bias": True, "targets": ["q_proj"]}, "is not plain LoRA"),
        ({"targets": ["lm_head"], "tied": True}, "embed_tokens.weight and lm_head.weight, which"),
    ],
)
def test_what_cannot_be_merged_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    policy = adapted(qwen2(options.pop("tied", False)), **options)
    with pytest.raises(ValueError, match=message):
        pieces(policy)


def test_pieces_travel_in_buckets_of_one_type_within_the_limit() -> None:
    def parameter(count: int, dtype: torch.dtype = torch.float32) -> nn.Parameter:
        return nn.Parameter(torch.zeros(count, dtype=dtype))

    whole: Any = parameter(0)  # as ZeRO 3 leaves it on each rank
    whole.ds_numel = 4
    named = {
        **{"a": parameter(2), "b": parameter(2), "c": parameter(1), "large": parameter(9)},
        **{"d": whole, "half": parameter(2, torch.bfloat16), "e": parameter(1)},
    }
    found = [Piece(name, weight) for name, weight in named.items()]
    runs = [[piece.name for piece in run] for run in buckets(found, 16)]
    assert runs == [["a", "b"], ["c"], ["large"], ["d"], ["half"], ["e"]]
    assert list(buckets([], 16)) == []


def test_ranks_that_cut_a_layer_unevenly_come_to_the_same_buckets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As tensor parallelism does, where a bucket of two pieces on one rank would not be on another:
    each goes alone."""
    monkeypatch.setattr(
        "deepspeed.module_inject.layers.GatherReplacedLayerParams", lambda *_: nullcontext()
    )
    ds = SimpleNamespace(zero_stage=0, tensor_parallel_size=2)
    names = []
    for cut in (2, 3):
        model = nn.Sequential(nn.Linear(4, cut), nn.Linear(4, 5 - cut))
        engine = SimpleNamespace(module=model)
        found = gathered(engine, ds, pieces(model), limit=48)
        names.append([[piece.name for piece in bucket] for bucket in found])
    assert names[0] == names[1] == [["0.weight"], ["0.bias"], ["1.weight"], ["1.bias"]]
