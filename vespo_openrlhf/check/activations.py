"""What a pass over a micro-batch holds on one GPU, as transformers and OpenRLHF run the modules.

Not measured on a GPU. T = tokens of a micro-batch on one GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vespo_openrlhf import config
from vespo_openrlhf.bridge.rules.moe import replays
from vespo_openrlhf.check.shape import ModelShape
from vespo_openrlhf.log_prob_head import BLOCK

#: The experts to replay, where there are any.
REPLAYED = "experts to replay"


def micro_batch_tokens(flags: Mapping[str, Any], phase: str) -> int:
    """T at most, in `phase` "train" or "rollout" (the recomputation of log-probs)."""
    ring = flags["ds.ring_attn_size"]
    longest = -(-flags["data.max_len"] // ring)
    if flags["train.dynamic_batch_enable"]:
        return max(flags[f"{phase}.max_tokens_per_gpu"], longest)
    tokens: int = flags[f"{phase}.micro_batch_size"] * longest
    return tokens


def training_activations(shape: ModelShape, flags: Mapping[str, Any]) -> dict[str, float]:
    tokens = micro_batch_tokens(flags, "train")
    layer = _layer_bytes(shape, tokens)
    if flags["actor.gradient_checkpointing_enable"]:
        kept = 2.0 * shape.layers * tokens * shape.hidden
        layers = {"layer inputs (checkpoints)": kept, "one layer recomputed": 2 * layer}
    else:
        layers = {"activations of all layers": (shape.layers + 1) * layer}
    entropy = flags["actor.entropy_coef"] is not None
    log_probs = _log_prob_training(shape, flags, tokens, entropy)
    return {**layers, **log_probs, **_replayed(shape, flags, tokens)}


def forward_activations(shape: ModelShape, flags: Mapping[str, Any]) -> dict[str, float]:
    tokens = micro_batch_tokens(flags, "rollout")
    terms = {"one layer": _layer_bytes(shape, tokens), **_replayed(shape, flags, tokens)}
    if config.chunked_log_probs(flags):
        block = 6.0 * min(BLOCK, tokens * shape.vocab)
        return terms | {"log-prob head (old log-probs)": block + 2.0 * tokens * shape.hidden}
    return terms | {"logits (old log-probs)": 6.0 * tokens * shape.vocab}


def _replayed(shape: ModelShape, flags: Mapping[str, Any], tokens: int) -> dict[str, float]:
    """Two bytes for each expert of a token: of the padded batch, and of what the model is given."""
    if not (replays(flags) and shape.experts):
        return {}
    return {REPLAYED: 2.0 * 2 * tokens * shape.layers * shape.experts_per_token}


def _layer_bytes(shape: ModelShape, tokens: int) -> float:
    """What the forward pass of one layer leaves for its backward pass, 2 bytes an element."""
    attention = 9 * shape.hidden + 3 * shape.query + 4 * shape.key_value
    if shape.sparse_layers:
        mlp = shape.experts_per_token * (2 * shape.hidden + 4 * shape.intermediate)
    else:
        mlp = 4 * shape.intermediate
    return 2.0 * tokens * (attention + mlp)


def _log_prob_training(
    shape: ModelShape, flags: Mapping[str, Any], tokens: int, entropy: bool
) -> dict[str, float]:
    if not config.chunked_log_probs(flags):
        # OpenRLHF turns the logits into float32; beside them stand their gradient, in float32 and
        # in 16 bits. The entropy needs two more of them.
        return {"logits and their gradient": (18.0 if entropy else 10.0) * tokens * shape.vocab}
    # A block in 16 bits and float32 with its gradient; rows of the last hidden states with their
    # gradient, in float32 with the product that is added to it; the output layer's gradient, which
    # there is none of with LoRA.
    block = (12.0 if entropy else 8.0) * min(BLOCK, tokens * shape.vocab)
    gradient = 0.0 if flags["ds.lora.rank"] else 2.0 * shape.vocab * shape.hidden
    return {"log-prob head": block + 12.0 * tokens * shape.hidden + gradient}
