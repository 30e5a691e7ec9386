"""OpenRLHF's flags and the environment, adapted to a machine without a GPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from vespo_openrlhf.cpu import FORCE_VARIABLE, NO_DEVICES

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


def environment() -> dict[str, str]:
    """Variables for every Ray worker of a CPU run; a value the user has set stays."""
    defaults = {
        FORCE_VARIABLE: "1",
        "CUDA_VISIBLE_DEVICES": NO_DEVICES,
        "DS_ACCELERATOR": "cpu",
        # One thread a process: engines and trainer share few cores, and more threads than cores
        # make both slower.
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        # By default vLLM pins each engine to cores of its own choice, where the trainer may run.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # An engine's one worker in its core's process, and a `vllm.LLM`'s core in the caller's.
        # In processes of their own, vLLM's default on a CPU, each costs ten CPU seconds of imports
        # at every start, and they spin while they wait for one another.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {name: os.environ.get(name, value) for name, value in defaults.items()}


def roles(flags: Mapping[str, Any]) -> list[str]:
    """The models that OpenRLHF places on GPUs in a run, by the group of their flags."""
    critic = flags["algo.advantage.estimator"] == "gae"
    scored = flags["reward.remote_url"] or flags["train.agent_func_path"]
    there = {
        "actor": True,
        "ref": flags["algo.kl.init_coef"] > 0,
        "critic": critic,
        "reward": not scored,
    }
    return [role for role, needed in there.items() if needed]


def logical_gpus(flags: Mapping[str, Any]) -> int:
    """How many of Ray's logical GPUs a run asks for; on the CPU stack one is just a place."""
    there = roles(flags)
    gpus = {role: flags[f"{role}.num_nodes"] * flags[f"{role}.num_gpus_per_node"] for role in there}
    shared = flags["train.colocate_all"]  # by all models, and if synchronous by the engines
    total: int = gpus["actor"]
    if not shared or flags["train.async_enable"]:
        total += (flags["vllm.num_engines"] or 0) * flags["vllm.tensor_parallel_size"]
    if shared:
        return total
    if "ref" in there and not flags["train.colocate_actor_ref"]:
        total += gpus["ref"]
    total += gpus.get("critic", 0)
    if "reward" in there and not ("critic" in there and flags["train.colocate_critic_reward"]):
        total += gpus["reward"]
    return total
