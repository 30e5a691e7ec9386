"""What the model's config.json says against the flags; its text part where it has several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vespo_openrlhf.bridge.roles import Flags
from vespo_openrlhf.models import experts


def check_positions(flags: Flags, model: Mapping[str, Any]) -> None:
    """vLLM does not start where a sequence may be longer than the model reads."""
    positions = model.get("max_position_embeddings") or 0
    scaling = model.get("rope_scaling") or model.get("rope_parameters") or {}
    kind = scaling.get("rope_type") or scaling.get("type")
    if "factor" in scaling and kind not in ("llama3", "longrope", "su"):
        return  # vLLM stretches them
    if 0 < positions < flags["data.max_len"]:
        raise ValueError(
            f"--data.max_len {flags['data.max_len']} is more than the {positions} positions of the "
            f"model, and vLLM will not start: set --data.max_len to at most {positions}"
        )


def check_heads(flags: Flags, model: Mapping[str, Any]) -> None:
    """Tensor parallelism splits attention by its heads."""
    parallel, heads = flags["vllm.tensor_parallel_size"], model.get("num_attention_heads") or 0
    if heads % parallel:
        raise ValueError(
            f"--vllm.tensor_parallel_size {parallel} does not divide the model's {heads} "
            "attention heads: use a power of two"
        )


def check_aux_loss(flags: Flags, model: Mapping[str, Any]) -> None:
    """The balancing loss is one of experts."""
    if flags["actor.aux_loss_coef"] and not experts(model):
        raise ValueError(
            f"--actor.aux_loss_coef {flags['actor.aux_loss_coef']:g} balances experts, and the "
            "model has none: leave the flag out"
        )
