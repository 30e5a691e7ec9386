"""The models of a run, as OpenRLHF places them: which there are, and on how many GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vespo_openrlhf.losses.distillation import RECORDED

Flags = Mapping[str, Any]


def teacher_model(flags: Flags) -> str | None:
    """The model that a run learns from, in the reference model's place, if it does."""
    teacher: str | None = flags["distill.teacher"]
    return None if teacher == RECORDED else teacher


def roles(flags: Flags) -> list[str]:
    """The models that OpenRLHF places on GPUs in a run, by the group of their flags."""
    critic = flags["algo.advantage.estimator"] == "gae"
    scored = flags["reward.remote_url"] or flags["train.agent_func_path"]
    there = {
        "actor": True,
        "ref": flags["algo.kl.init_coef"] > 0 or teacher_model(flags) is not None,
        "critic": critic,
        "reward": not scored,
    }
    return [role for role, needed in there.items() if needed]


def gpus(flags: Flags, role: str = "actor") -> int:
    """GPUs of a model."""
    number: int = flags[f"{role}.num_nodes"] * flags[f"{role}.num_gpus_per_node"]
    return number


def copies(flags: Flags) -> int:
    """GPUs that take the same samples: those of ring attention and of tensor parallelism."""
    number: int = flags["ds.ring_attn_size"] * flags["ds.tensor_parallel_size"]
    return number


def ranks(flags: Flags, role: str = "actor") -> int:
    """Data-parallel ranks of a model of OpenRLHF's."""
    return gpus(flags, role) // copies(flags)


def colocated(flags: Flags) -> bool:
    """Whether trainer and engines take turns on the same GPUs."""
    return bool(flags["train.colocate_all"]) and not flags["train.async_enable"]


def logical_gpus(flags: Flags) -> int:
    """How many of Ray's logical GPUs a run asks for; on the CPU stack one is just a place."""
    there = roles(flags)
    of = {role: gpus(flags, role) for role in there}
    shared = flags["train.colocate_all"]  # by all models, and if synchronous by the engines
    total: int = of["actor"]
    if not shared or flags["train.async_enable"]:
        total += (flags["vllm.num_engines"] or 0) * flags["vllm.tensor_parallel_size"]
    if shared:
        return total
    if "ref" in there and not flags["train.colocate_actor_ref"]:
        total += of["ref"]
    total += of.get("critic", 0)
    if "reward" in there and not ("critic" in there and flags["train.colocate_critic_reward"]):
        total += of["reward"]
    return total
