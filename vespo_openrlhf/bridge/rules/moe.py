"""Mixtures of experts: what routing replay can be had with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from vespo_openrlhf.bridge.roles import Flags
from vespo_openrlhf.models import experts
from vespo_openrlhf.routing_replay import check_routers


def replays(flags: Mapping[str, Any]) -> bool:
    """Whether the trainer takes the engine's choice of experts."""
    return bool(flags["moe.routing_replay"] != "off")


def check_routing_replay(flags: Flags, model: Mapping[str, Any]) -> None:
    """The engine must tell its choice, and every router of the trainer's model take it."""
    if not replays(flags):
        return
    asked, off = f"--moe.routing_replay {flags['moe.routing_replay']}", "leave the flag out"
    if not experts(model):
        raise ValueError(f"{asked}: the model has no experts; {off}")
    refused = {
        "ds.ring_attn_size": (flags["ds.ring_attn_size"] > 1, "a rank sees a part of a sequence"),
        "ds.tensor_parallel_size": (
            flags["ds.tensor_parallel_size"] > 1,
            "DeepSpeed cuts layers into parts that are not the routers known here",
        ),
        "ds.deepcompile": (flags["ds.deepcompile"], "a compiled router does not ask"),
    }
    for flag, (given, reason) in refused.items():
        if given:
            raise ValueError(f"--{flag} {flags[flag]} does not go with {asked}: {reason}; {off}")
    if not _engine_tells():
        raise ValueError(f"{asked}: the installed vLLM does not return the experts it took; {off}")
    try:
        check_routers(_on_meta(model), experts(model))
    except ValueError as error:
        raise ValueError(f"{asked} does not work with this model: {error}; {off}") from error


def _engine_tells() -> bool:
    from vllm.engine.arg_utils import EngineArgs  # seconds, which other runs need not wait

    return "enable_return_routed_experts" in {
        field.name for field in dataclasses.fields(EngineArgs)
    }


def _on_meta(model: Mapping[str, Any]) -> torch.nn.Module:
    """Its layers, without memory for their weights.

    Raises:
        ValueError: transformers has no class for it.
    """
    from transformers import AutoConfig, AutoModel

    known = {"model_type": "", **model}  # which a text part may not say
    try:
        with torch.device("meta"):
            made: torch.nn.Module = AutoModel.from_config(AutoConfig.for_model(**known))
    except (TypeError, ValueError) as error:  # which lists all the classes that there are
        kind = known["model_type"]
        raise ValueError(f"transformers builds no model of type {kind!r} by itself") from error
    return made
