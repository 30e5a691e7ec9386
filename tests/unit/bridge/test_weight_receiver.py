"""Weights that vLLM's own model is given again, and what its layers then compute.

vLLM's model and loader are real, built in this process without an engine; the trainer's model is
transformers'. The group is a stand-in that hands the trainer's bucket over.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import pytest
import torch
import transformers

from vespo_openrlhf import cpu
from vespo_openrlhf.bridge.weights.checksum import checksums
from vespo_openrlhf.bridge.weights.pieces import Piece, buckets, pieces

SMALL = {
    "vocab_size": 61,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 32,
    "initializer_range": 0.3,  # routing that is clear, and experts that differ
    "dtype": "float32",
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "norm_topk_prob": True}
# Experts are packed in blocks of 32; 48 are padded first.
KINDS = {
    "dense": ("Qwen3", {}),
    "experts": ("Qwen3Moe", EXPERTS | {"moe_intermediate_size": 32}),
    "padded-experts": ("Qwen3Moe", EXPERTS | {"moe_intermediate_size": 48}),
}
# What a verification comes across besides: biases, which vLLM loads in place; tied embeddings; and
# what MLA makes of `kv_b_proj` at the start, and computes with while decoding.
LATENT = {
    "kv_lora_rank": 32,
    "q_lora_rank": None,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
    "first_k_dense_replace": 2,
}
VERIFIED = KINDS | {
    "tied": ("Qwen2", {"tie_word_embeddings": True}),
    "latent": ("DeepseekV3", LATENT),
}


@pytest.fixture(scope="module")
def vllm_alone() -> Iterator[None]:
    """vLLM's process groups, of this process alone."""
    cpu.install()
    from vllm import distributed
    from vllm.config import VllmConfig, set_current_vllm_config

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    with set_current_vllm_config(VllmConfig()):
        distributed.init_distributed_environment(1, 0, address, 0, "gloo")
        distributed.ensure_model_parallel_initialized(1, 1)
    yield
    distributed.destroy_model_parallel()
    distributed.destroy_distributed_environment()


class Both:
    """A trainer's model, and the same in vLLM behind a worker that receives."""

    def __init__(self, kind: str, folder: Path) -> None:
        from vllm.config import set_current_vllm_config
        from vllm.engine.arg_utils import EngineArgs
        from vllm.model_executor.model_loader import get_model

        from vespo_openrlhf.bridge.weights.receiver import WeightReceiver

        family, options = VERIFIED[kind]
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**SMALL | options)
        self.trained = getattr(transformers, f"{family}ForCausalLM")(config)
        self.trained.save_pretrained(folder)
        arguments = EngineArgs(
            str(folder), dtype="float32", enforce_eager=True, skip_tokenizer_init=True
        )
        self._config = arguments.create_engine_config()
        with set_current_vllm_config(self._config):
            self.served = get_model(vllm_config=self._config)
        self.worker: Any = WeightReceiver()
        self.worker.device = torch.device("cpu")
        self.worker.vllm_config = self._config
        self.worker.model_config = self._config.model_config
        self.worker.model_runner = SimpleNamespace(model=self.served)

    @torch.no_grad()
    def update(self) -> None:
        for parameter in self.trained.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn_like(parameter)

    def send(self, found: list[Piece], limit: int, *, verifying: bool = False) -> None:
        for bucket in buckets(found, limit):
            flat = torch.cat([piece.tensor().reshape(-1) for piece in bucket])
            broadcast = lambda into, src, stream, flat=flat: into.copy_(flat)  # noqa: E731
            self.worker._model_update_group = SimpleNamespace(broadcast=broadcast)
            shapes = [(piece.name, tuple(piece.weight.shape)) for piece in bucket]
            sums = checksums(piece.tensor() for piece in bucket) if verifying else None
            assert self.worker.receive_weights(torch.float32, shapes, sums) == ""

    def verify(self, found: list[Piece], limit: int = 1) -> str:
        assert self.worker.verify_weights() == ""
        self.send(found, limit, verifying=True)
        return self.worker.finish_weights()

    def gaps(self) -> list[float]:
        """How far vLLM's parts are from the trainer's, over their own size, on noise."""
        from vllm.config import set_current_vllm_config
        from vllm.forward_context import set_forward_context

        noise = torch.randn(32, SMALL["hidden_size"])
        parts = []
        for ours, theirs in zip(self.trained.model.layers, self.served.model.layers, strict=True):
            attention = ours.self_attn
            projected = [attention.q_proj(noise), attention.k_proj(noise), attention.v_proj(noise)]
            parts += [
                (ours.mlp(noise[None])[0], lambda layer=theirs: layer.mlp(noise)),
                (torch.cat(projected, -1), lambda layer=theirs: layer.self_attn.qkv_proj(noise)[0]),
            ]
        parts.append((self.trained.lm_head(noise), lambda: self.served.compute_logits(noise)))
        with set_current_vllm_config(self._config), set_forward_context(None, self._config):
            pairs = [(ours, theirs()) for ours, theirs in parts]
        return [((theirs - ours).abs().max() / ours.abs().max()).item() for ours, theirs in pairs]

    def places(self) -> dict[str, int]:
        """Where the weights lie, which is where CUDA graphs read them."""
        return {name: weight.data_ptr() for name, weight in self.served.named_parameters()}


@pytest.mark.parametrize("limit", [1, 1 << 30], ids=["split", "whole"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_update_arrives_where_the_kernels_read(
    kind: str, limit: int, vllm_alone: None, tmp_path: Path
) -> None:
    both = Both(kind, tmp_path)
    assert max(both.gaps()) < 1e-5
    places = both.places()
    found = pieces(both.trained)
    for round_ in range(3):
        both.update()
        assert max(both.gaps()) > 0.1
        # Not in the order of layers, so that several are incomplete at a time.
        both.send(found[round_::2] + found[(round_ + 1) % 2 :: 2], limit)
        assert both.worker.finish_weights() == ""
        assert max(both.gaps()) < 1e-5
    assert both.places() == places


@torch.no_grad()
def test_experts_that_are_not_trained_stay(vllm_alone: None, tmp_path: Path) -> None:
    """With adapters on attention alone, of a model that sees: what is frozen is not sent."""
    both = Both("experts", tmp_path)
    targets = ["q_proj", "k_proj", "v_proj"]
    lora = peft.LoraConfig(r=2, lora_alpha=4, target_modules=targets, init_lora_weights=False)
    found = pieces(peft.get_peft_model(both.trained, lora))
    for sent in (found, [piece for piece in found if piece.trained]):
        both.update()
        both.send(sent, 1)
        assert both.worker.finish_weights() == ""
        assert max(both.gaps()) < 1e-5


@torch.no_grad()
def test_experts_read_from_the_trainers_memory_arrive(
    vllm_alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Colocated engines take one weight a call, and its memory is used again when it returns. The
    handle is a stand-in for CUDA's."""
    monkeypatch.setattr("openrlhf.trainer.ray.utils.get_physical_gpu_id", lambda: "gpu-0")
    both = Both("experts", tmp_path)
    for round_ in range(6):
        if round_ % 2:
            assert both.worker.verify_weights() == ""
        else:
            both.update()
        for piece in pieces(both.trained):
            there = piece.tensor().clone()
            handles = {"gpu-0": (lambda *_, there=there: there, [None] * 7)}
            both.worker.update_weight_cuda_ipc(piece.name, there.dtype, there.shape, handles)
            there.fill_(7.0)
        assert both.worker.finish_weights() == ""
        assert max(both.gaps()) < 1e-5


@torch.no_grad()
def test_experts_are_shuffled_again_for_a_backend_that_shuffles_them(
    vllm_alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As FlashInfer's TRTLLM experts on a GPU, which cannot run here: the shuffling is a stand-in.
    What calls it, and what becomes of its result, are vLLM's own."""
    from vllm.model_executor.layers.fused_moe import unquantized_fused_moe_method as module

    both = Both("experts", tmp_path)
    layers = both.worker._experts()
    for layer in layers:
        layer.quant_method.unquantized_backend = module.UnquantizedMoeBackend.FLASHINFER_TRTLLM
    monkeypatch.setattr(
        module,
        "convert_to_unquantized_kernel_format",
        lambda backend, moe_config, w13_weight, w2_weight: (w13_weight.flip(1), w2_weight.flip(1)),
    )
    places = both.places()
    for _ in range(3):
        both.update()
        both.send(pieces(both.trained), 1)
        assert both.worker.finish_weights() == ""
        assert both.verify(pieces(both.trained)) == ""
        for layer, trained in zip(layers, both.trained.model.layers, strict=True):
            experts = trained.mlp.experts
            assert torch.equal(layer.w13_weight, experts.gate_up_proj.flip(1))
            assert torch.equal(layer.w2_weight, experts.down_proj.flip(1))
    assert both.places() == places


def test_an_engine_in_which_an_update_broke_off_takes_part_in_no_other(
    vllm_alone: None, tmp_path: Path
) -> None:
    both = Both("experts", tmp_path)
    found = pieces(both.trained)
    both.send(found[: len(found) // 2], 1)
    with pytest.raises(RuntimeError, match="broken off: the engine is not whole"):
        both.worker.init_process_group("127.0.0.1", 1, 1, 2, "weights", "gloo", False)


def test_what_cannot_be_put_in_place_is_refused(
    vllm_alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = Both("experts", tmp_path)
    found = pieces(both.trained)
    method = both.worker._experts()[0].quant_method

    def broken(layer: Any) -> None:
        raise RuntimeError("no room to pack")

    both.send([piece for piece in found if "gate_up_proj" in piece.name], 1)
    monkeypatch.setattr(method, "process_weights_after_loading", broken)
    assert both.worker.finish_weights() == "RuntimeError: no room to pack"


@pytest.mark.parametrize("limit", [1, 1 << 30], ids=["split", "whole"])
@pytest.mark.parametrize("kind", VERIFIED)
@torch.no_grad()
def test_an_update_that_arrives_is_verified(
    kind: str, limit: int, vllm_alone: None, tmp_path: Path
) -> None:
    both = Both(kind, tmp_path)
    found = pieces(both.trained)
    for _ in range(2):
        both.update()
        both.send(found, limit)
        assert both.worker.finish_weights() == ""
        before = {name: weight.clone() for name, weight in both.served.named_parameters()}
        places = both.places()
        assert both.verify(found[1::2] + found[::2], limit) == ""
        assert both.places() == places
        assert all(torch.equal(w, before[name]) for name, w in both.served.named_parameters())


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("dense", "model.layers.1.mlp.gate_up_proj.weight"),
        ("dense", "model.layers.0.self_attn.q_norm.weight"),
        ("dense", "lm_head.weight"),
        ("experts", "model.layers.1.mlp.experts.routed_experts.w2_weight"),
        ("padded-experts", "model.layers.0.mlp.experts.routed_experts.w13_weight"),
        ("tied", "model.embed_tokens.weight"),
        ("tied", "model.layers.1.self_attn.qkv_proj.bias"),
        ("latent", "model.layers.0.self_attn.kv_b_proj.weight"),
    ],
)
@pytest.mark.parametrize("value", [1e-30, torch.nan], ids=["small", "nan"])
@torch.no_grad()
def test_one_value_that_differs_is_found_by_its_tensors_name(
    kind: str, name: str, value: float, vllm_alone: None, tmp_path: Path
) -> None:
    both = Both(kind, tmp_path)
    weight = both.served.get_parameter(name)
    weight.reshape(-1)[1:2] = value
    found = both.verify(pieces(both.trained))
    assert f"{name} (1 of {weight.numel()} elements differ)" in found
    assert found.count("elements differ") == 1


@torch.no_grad()
def test_raw_rows_over_packed_experts_are_found(vllm_alone: None, tmp_path: Path) -> None:
    both = Both("experts", tmp_path)
    found = pieces(both.trained)
    both.served.load_weights([(piece.name, piece.tensor()) for piece in found])  # raises nothing
    named = both.verify(found)
    for layer in range(2):
        assert f"model.layers.{layer}.mlp.experts.routed_experts.w13_weight (" in named
    assert " and 1 more" in named


@torch.no_grad()
def test_what_mla_makes_of_a_weight_follows_it_or_is_found(
    vllm_alone: None, tmp_path: Path
) -> None:
    """With the kernels of here it is a view. A copy, as other kernels have it, would be stale."""
    both = Both("latent", tmp_path)
    found = pieces(both.trained)
    layers = [layer.self_attn.mla_attn.mla_attn for layer in both.served.model.layers]
    layers[1].W_UV = torch.nn.Parameter(layers[1].W_UV.clone())
    both.update()
    both.send(found, 1)
    assert both.worker.finish_weights() == ""
    keys, values = (
        both.trained.model.layers[0].self_attn.kv_b_proj.weight.view(2, 32, 32).split(16, 1)
    )
    assert torch.equal(layers[0].W_UK_T, keys)
    assert torch.equal(layers[0].W_UV, values.transpose(1, 2))
    stale = both.verify(found)
    assert "model.layers.1.self_attn.mla_attn.mla_attn.W_UV (1024 of 1024" in stale
    assert stale.count("elements differ") == 1


@torch.no_grad()
def test_what_arrives_otherwise_than_it_was_sent_is_told_apart(
    vllm_alone: None, tmp_path: Path
) -> None:
    both = Both("dense", tmp_path)
    assert both.worker.verify_weights() == ""
    (bucket,) = buckets(pieces(both.trained)[1:3], 1 << 30)
    flat = torch.cat([piece.tensor().reshape(-1) for piece in bucket])
    shapes = [(piece.name, tuple(piece.weight.shape)) for piece in bucket]
    sums = checksums(piece.tensor() for piece in bucket)
    flat[-1] += 1
    both.worker._model_update_group = SimpleNamespace(broadcast=lambda t, **_: t.copy_(flat))
    refusal = both.worker.receive_weights(torch.float32, shapes, sums)
    assert refusal == f"{bucket[1].name} did not arrive as the trainer sent it"


@torch.no_grad()
def test_what_is_not_sent_is_named_once(
    vllm_alone: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A weight of its own, and one of the three that vLLM keeps in one tensor."""
    both = Both("dense", tmp_path)
    kept = ("layers.1.self_attn.v_proj.weight", "layers.0.input_layernorm.weight")
    sent = [piece for piece in pieces(both.trained) if not piece.name.endswith(kept)]
    for _ in range(2):
        assert both.verify(sent) == ""
    assert "no weight could be verified" in both.verify([])
    (record,) = [record for record in caplog.records if "not verified" in record.message]
    assert "'model.layers.1.self_attn.qkv_proj.weight'" in record.message
    assert "'model.layers.0.input_layernorm.weight'" in record.message
    assert record.message.count("model.layers") == 2
