"""What DeepSpeed holds on one GPU throughout a run: weights, gradients, optimizer.

An integration test measures it. P = parameters, S = shards (ranks that ZeRO divides over).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vespo_openrlhf.bridge.roles import gpus
from vespo_openrlhf.check.shape import ModelShape


@dataclass(frozen=True)
class States:
    """Bytes of what DeepSpeed keeps on one GPU throughout a run."""

    parameters: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        return self.parameters + self.gradients + self.optimizer


def training_states(
    parameters: int,
    *,
    trained: int | None = None,
    zero_stage: int,
    shards: int,
    dtype: str,
    gradient_dtype: str | None = None,
    offload: bool = False,
) -> States:
    """As DeepSpeed holds them between two backward passes, with Adam.

    16-bit training keeps a float32 copy of the weights for Adam; it counts as optimizer.

    Args:
        parameters: P, all of them.
        trained: those of them that have gradients; None is all.
        zero_stage: 0 to 3.
        shards: S.
        dtype: bf16, fp16 or fp32.
        gradient_dtype: `--ds.grad_accum_dtype`, what ZeRO-3 adds up micro-batches in; None is
            `dtype`.
        offload: `--ds.adam_offload`: the optimizer and the gradients it reads are on the host.
    """
    trained = parameters if trained is None else trained
    width = _width(dtype)
    adam = 8 + (0 if width == 4 else 4)
    gradient = width
    if zero_stage == 0:
        gradient = 4  # without ZeRO they are added up in float32
    elif zero_stage == 3 and gradient_dtype is not None:
        gradient = _width(gradient_dtype)
    sharded_optimizer = zero_stage > 0 or width == 2
    return States(
        parameters=parameters * width / (shards if zero_stage == 3 else 1),
        gradients=0 if offload else trained * gradient / (shards if zero_stage >= 2 else 1),
        optimizer=0 if offload else trained * adam / (shards if sharded_optimizer else 1),
    )


def _width(dtype: str) -> int:
    return 4 if dtype == "fp32" else 2


def trained_parameters(shape: ModelShape, flags: Mapping[str, Any]) -> int:
    """All of the model's, or with LoRA those of its adapters."""
    rank = flags["ds.lora.rank"]
    return shape.adapter_parameters(rank) if rank else shape.parameters


def all_parameters(shape: ModelShape, flags: Mapping[str, Any]) -> int:
    return shape.parameters + shape.adapter_parameters(flags["ds.lora.rank"])


def actor_states(shape: ModelShape, flags: Mapping[str, Any]) -> States:
    """The policy's states on one GPU of the trainer."""
    tensor_parallel = flags["ds.tensor_parallel_size"]
    return training_states(
        all_parameters(shape, flags) // tensor_parallel,
        trained=trained_parameters(shape, flags) // tensor_parallel,
        zero_stage=flags["ds.zero_stage"],
        shards=gpus(flags) // tensor_parallel,
        dtype=flags["ds.param_dtype"],
        gradient_dtype=flags["ds.grad_accum_dtype"],
        offload=flags["ds.adam_offload"],
    )
