"""LoRA: an adapter is merged into a weight of the engines' own, and trained as it samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vespo_openrlhf.bridge.roles import Flags
from vespo_openrlhf.models import experts


def check_adapters(flags: Flags) -> None:
    """LoRA: an adapter is merged into a weight of the engines' own, and trained as it samples."""
    rank, targets = flags["ds.lora.rank"], flags["ds.lora.target_modules"]
    if rank < 0:
        raise ValueError(f"--ds.lora.rank is {rank}: set it to at least 1, or to 0 for no LoRA")
    if not rank:
        for option, default in (("alpha", 16), ("target_modules", "all-linear"), ("dropout", 0)):
            if flags[f"ds.lora.{option}"] != default:
                raise ValueError(
                    f"--ds.lora.{option} {flags[f'ds.lora.{option}']} has no effect without "
                    "--ds.lora.rank: set it, as a rule to 32, or leave this flag out"
                )
        return
    named = [] if isinstance(targets, str) else [name.rpartition(".")[2] for name in targets]
    tied = [name for name in named if name in ("lm_head", "embed_tokens")]
    head = flags["ds.value_head_prefix"]
    critic = flags["algo.advantage.estimator"] == "gae"
    refused = {
        "ds.lora.target_modules": (
            not isinstance(targets, str) and not targets,
            "it names no module; leave the flag out, all linear layers are adapted",
        ),
        f"ds.lora.target_modules {' '.join(tied)}": (
            bool(tied),
            "embedding and output layer may be one weight, and are not adapted; leave them out",
        ),
        "ds.lora.target_modules without " + head: (
            critic and bool(named) and head not in named,
            f"the critic's new value head would stay as it was drawn; add {head}, or leave the "
            "flag out",
        ),
        "ds.lora.dropout": (
            flags["ds.lora.dropout"] != 0,
            "the policy that is trained would not be the one that samples, and the importance "
            "weight would measure the dropout; leave it out",
        ),
        "ds.tensor_parallel_size": (
            flags["ds.tensor_parallel_size"] > 1,
            "DeepSpeed would cut adapters as it cuts layers; leave it out, --ds.zero_stage 3 "
            "divides the weights",
        ),
        "train.enable_ema": (
            flags["train.enable_ema"],
            "OpenRLHF averages weights of a model that has no adapters; leave it out",
        ),
        "actor.freeze_visual_encoder": (
            flags["actor.freeze_visual_encoder"],
            "OpenRLHF would adapt its layers all the same; leave it out",
        ),
    }
    for flag, (given, reason) in refused.items():
        if given:
            raise ValueError(f"--{flag} does not go with --ds.lora.rank: {reason}")


def check_adapted_experts(flags: Flags, model: Mapping[str, Any]) -> None:
    """peft adapts the experts of a mixture, and their router, in a way of its own."""
    targets = flags["ds.lora.target_modules"]
    mlp = {"gate", "gate_proj", "up_proj", "down_proj", "experts"}
    named = isinstance(targets, str) or mlp & {name.rpartition(".")[2] for name in targets}
    if flags["ds.lora.rank"] and experts(model) and named:
        raise ValueError(
            "--ds.lora.rank adapts the experts of this model, and what adapts them is not merged "
            "for the engines: adapt attention alone with --ds.lora.target_modules q_proj k_proj "
            "v_proj o_proj"
        )
