"""Run by test_memory on every rank: prints the bytes that DeepSpeed holds, for three models.

As OpenRLHF configures it, after a backward pass that completes an update and before its step,
when weights, gradients and optimizer states are all there.
"""

import json
import os

import torch

from vespo_openrlhf import cpu

cpu.install()

import deepspeed  # noqa: E402
from openrlhf.utils.deepspeed.deepspeed_utils import get_train_ds_config  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import (  # noqa: E402
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

# ZeRO stage, type of the weights, type that gradients are added up in, rank of adapters.
RUNS = (
    (0, "fp32", None, 0),
    (2, "bf16", None, 0),
    (3, "bf16", None, 0),
    (3, "bf16", "fp32", 0),
    (2, "bf16", None, 8),
)
SIZES = {"vocab_size": 1000, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 32}
MODELS = {
    "small": (
        Qwen3ForCausalLM,
        Qwen3Config(
            **SIZES,
            hidden_size=128,
            intermediate_size=256,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),
    ),
    "experts": (
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig(
            **SIZES,
            hidden_size=128,
            intermediate_size=512,
            moe_intermediate_size=128,
            num_experts=8,
            num_experts_per_tok=2,
            num_key_value_heads=2,
        ),
    ),
    "large": (
        LlamaForCausalLM,
        LlamaConfig(**SIZES, hidden_size=512, intermediate_size=2048, num_key_value_heads=4),
    ),
}


def size(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors if t is not None)


def measure(
    model_class, config, zero_stage: int, dtype: str, gradient_dtype: str | None, rank: int
) -> dict[str, float]:
    model = model_class(config).to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    if rank:
        attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
        targets = attention if hasattr(config, "num_experts") else "all-linear"
        lora = LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules=targets)
        model = get_peft_model(model, lora)
    model.config.use_cache = False
    settings = get_train_ds_config(
        offload=False,
        adam_offload=False,
        stage=zero_stage,
        param_dtype=dtype,
        zpg=1,
        grad_accum_dtype=gradient_dtype,
        optim_config={"type": "AdamW", "params": {"lr": 1e-6, "torch_adam": True}},
    )
    settings["train_micro_batch_size_per_gpu"] = 1
    settings["gradient_accumulation_steps"] = 1
    engine, optimizer, *_ = deepspeed.initialize(
        model=model,
        model_parameters=[p for p in model.parameters() if p.requires_grad],
        config=settings,
    )

    def backward() -> None:
        engine.backward(engine(input_ids=torch.arange(16)[None]).logits.float().square().mean())

    backward()
    engine.step()  # without ZeRO, Adam makes its states in its first step
    backward()
    inner = getattr(optimizer, "optimizer", optimizer)
    moments = [t for state in inner.state.values() for t in state.values() if torch.is_tensor(t)]
    if zero_stage == 3:
        weights = [p.ds_tensor for p in model.parameters()]
        gradients = [optimizer.grad_partitions_flat_buffer]
        master = optimizer.fp32_partitioned_groups_flat
    elif zero_stage == 2:
        weights = list(model.parameters())
        gradients = [t for group in optimizer.averaged_gradients.values() for t in group]
        master = optimizer.single_partition_of_fp32_groups
    else:
        weights = list(model.parameters())
        gradients = [p.grad for p in model.parameters()]
        master = []
    return {
        "parameters": size(weights),
        "gradients": size(gradients),
        "optimizer": size(moments) + size(master),
    }


torch.set_num_threads(1)
deepspeed.init_distributed()
measured = [
    {
        "model": name,
        "config": config.to_dict(),
        "zero_stage": zero_stage,
        "dtype": dtype,
        "gradient_dtype": gradient_dtype,
        "rank": rank,
        "bytes": measure(model_class, config, zero_stage, dtype, gradient_dtype, rank),
    }
    for zero_stage, dtype, gradient_dtype, rank in RUNS
    for name, (model_class, config) in MODELS.items()
]
if os.environ["RANK"] == "0":
    print("MEASURED " + json.dumps(measured, default=str))
