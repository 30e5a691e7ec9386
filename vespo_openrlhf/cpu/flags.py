"""OpenRLHF's flags and the environment, adapted to a machine without a GPU."""

from __future__ import annotations

from typing import Any

# flag -> (value on the CPU, why). Where the user's value differs, the change is announced.
_FORCED: dict[str, tuple[Any, str]] = {
    "ds.param_dtype": ("fp32", "most CPUs emulate bf16; the engines run in float32 too"),
    "ds.attn_implementation": ("sdpa", "flash-attn needs a GPU"),
    "ds.zero_stage": (0, "there is no GPU memory to save"),
    "ds.adam_offload": (False, "the optimizer is on the CPU already"),
    "vllm.enforce_eager": (True, "there are no CUDA graphs"),
    "vllm.sync_backend": ("gloo", "NCCL needs GPUs"),
}

# flag -> (value that means "off", what to do instead).
_UNAVAILABLE: dict[str, tuple[Any, str]] = {
    "ds.packing_samples": (False, "packing needs flash-attn: leave the flag out"),
    "train.dynamic_batch_enable": (False, "dynamic batches need packing: leave the flag out"),
    "ds.ring_attn_size": (1, "ring attention needs GPUs: leave the flag out"),
    "ds.tensor_parallel_size": (1, "tensor parallelism needs GPUs: leave the flag out"),
    "vllm.tensor_parallel_size": (1, "add engines with --vllm.num_engines instead"),
    "ds.use_liger_kernel": (False, "Liger kernels need a GPU: leave the flag out"),
    "ds.enable_sleep": (False, "there is no GPU memory to free: leave the flag out"),
    "vllm.enable_sleep": (False, "there is no GPU memory to free: leave the flag out"),
}


def adapt(flags: dict[str, Any]) -> list[str]:
    """Set the flags that only have one workable value on a CPU; return what was changed.

    Args:
        flags: OpenRLHF's flags by their dotted names, without the leading dashes; edited in place.

    Raises:
        ValueError: a flag asks for what a CPU cannot do; the message says what to do instead.
    """
    for flag, (off, instead) in _UNAVAILABLE.items():
        if flags[flag] != off:
            raise ValueError(f"--{flag} is not available on a CPU: {instead}")
    changes = []
    for flag, (value, reason) in _FORCED.items():
        if flags[flag] != value:
            changes.append(f"--{flag} {flags[flag]} -> {value} ({reason})")
            flags[flag] = value
    return changes
