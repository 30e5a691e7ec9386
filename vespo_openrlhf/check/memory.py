"""Memory of one GPU, of the trainer and of an engine, from the model's shape and the flags.

Weights, gradients and optimizer are counted as DeepSpeed holds them, which an integration test
measures. Activations and buffers follow the modules as transformers and OpenRLHF run them, and
have not been measured on a GPU; `RESERVE` stands for what nobody counts.

Symbols: P = parameters, S = shards (ranks that ZeRO divides over), T = tokens of a micro-batch on
one GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vespo_openrlhf import config
from vespo_openrlhf.check.model import ModelShape
from vespo_openrlhf.head import BLOCK

GIB = 2**30

#: CUDA context, NCCL's buffers, fragmentation.
RESERVE = 3 * GIB
#: What vLLM uses beside weights and KV cache: CUDA graphs, activations of a step, its context.
ENGINE_RESERVE = 4 * GIB
#: What stays on the GPU of an engine that sleeps.
ASLEEP = 1.5 * GIB

# DeepSpeed's defaults, which OpenRLHF leaves in force ("auto"), in elements.
_BUCKET = 500_000_000
_MAX_LIVE = 1_000_000_000
_SUB_GROUP = 1_000_000_000


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


@dataclass(frozen=True)
class Memory:
    """What one GPU holds in one phase of a run.

    Attributes:
        place: whose GPU, and when.
        terms: bytes by name.
        gpu: bytes it has.
    """

    place: str
    terms: Mapping[str, float]
    gpu: float

    @property
    def total(self) -> float:
        return sum(self.terms.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.gpu

    def largest(self, number: int = 3) -> str:
        """The largest terms, for a message."""
        ranked = sorted(self.terms.items(), key=lambda term: -term[1])[:number]
        return ", ".join(f"{name} {size / GIB:.1f}" for name, size in ranked) + " GiB"


@dataclass(frozen=True)
class Engine:
    """What an engine's GPU has room for.

    Attributes:
        weights, cache: bytes on each of the engine's GPUs.
        tokens: that the KV cache of the engine holds; negative where there is no room.
    """

    weights: float
    cache: float
    tokens: int


def world(flags: Mapping[str, Any]) -> int:
    """GPUs of the trainer."""
    gpus: int = flags["actor.num_nodes"] * flags["actor.num_gpus_per_node"]
    return gpus


def colocated(flags: Mapping[str, Any]) -> bool:
    """Whether trainer and engines take turns on the same GPUs."""
    return bool(flags["train.colocate_all"]) and not flags["train.async_enable"]


def micro_batch_tokens(flags: Mapping[str, Any], phase: str) -> int:
    """T at most, in `phase` "train" or "rollout" (the recomputation of log-probs)."""
    ring = flags["ds.ring_attn_size"]
    longest = -(-flags["data.max_len"] // ring)
    if flags["train.dynamic_batch_enable"]:
        return max(flags[f"{phase}.max_tokens_per_gpu"], longest)
    tokens: int = flags[f"{phase}.micro_batch_size"] * longest
    return tokens


def trained_parameters(shape: ModelShape, flags: Mapping[str, Any]) -> int:
    """All of the model's, or with LoRA those of its adapters."""
    rank = flags["ds.lora.rank"]
    return shape.adapter_parameters(rank) if rank else shape.parameters


def _all_parameters(shape: ModelShape, flags: Mapping[str, Any]) -> int:
    return shape.parameters + shape.adapter_parameters(flags["ds.lora.rank"])


def actor_states(shape: ModelShape, flags: Mapping[str, Any]) -> States:
    """The policy's states on one GPU of the trainer."""
    tensor_parallel = flags["ds.tensor_parallel_size"]
    return training_states(
        _all_parameters(shape, flags) // tensor_parallel,
        trained=trained_parameters(shape, flags) // tensor_parallel,
        zero_stage=flags["ds.zero_stage"],
        shards=world(flags) // tensor_parallel,
        dtype=flags["ds.param_dtype"],
        gradient_dtype=flags["ds.grad_accum_dtype"],
        offload=flags["ds.adam_offload"],
    )


def trainer_memory(
    shape: ModelShape, flags: Mapping[str, Any], gpu: float, *, reads_old_log_probs: bool
) -> Memory:
    """The trainer's GPU in the largest moment of an update.

    Args:
        shape: the model.
        flags: resolved, by dotted name.
        gpu: bytes of one GPU.
        reads_old_log_probs: whether a forward pass recomputes them.
    """
    stage, states = flags["ds.zero_stage"], actor_states(shape, flags)
    terms: dict[str, float] = {
        "weights": states.parameters,
        "gradients": states.gradients,
        "optimizer": states.optimizer,
    }
    if flags["algo.kl.init_coef"] > 0 and _shares_reference(flags) and not flags["ref.offload"]:
        terms["reference model"] = states.parameters
    if stage == 3:
        live = max(min(_MAX_LIVE, shape.parameters), shape.layer_parameters)
        terms["gathered weights"] = 2 * live
        if flags["ds.zpg"] > 1:
            terms["weights kept on the node (zpg)"] = 2 * shape.parameters / flags["ds.zpg"]
    buckets = _BUCKET * (2 if flags["ds.overlap_comm"] else 1) if stage else 0
    working: dict[str, float] = {
        "gradient buckets": 2.0 * min(buckets, 2 * shape.parameters),
        **_training_activations(shape, flags),
    }
    forward: dict[str, float] = {}
    if reads_old_log_probs:
        forward = _forward_activations(shape, flags)
    # Adam reads a copy of its gradients in float32, made when the activations are gone: DeepSpeed
    # flattens them, whatever they were added up in.
    shards = world(flags) // flags["ds.tensor_parallel_size"]
    shard = trained_parameters(shape, flags) // shards
    step = {"float32 gradients": 4.0 * min(shard, _SUB_GROUP if stage == 3 else shard)}
    phases: list[dict[str, float]] = [working, forward, step]
    largest = max(phases, key=lambda phase: sum(phase.values()))
    terms |= largest
    terms["reserve"] = RESERVE
    if colocated(flags):
        asleep = flags["vllm.enable_sleep"]
        share = flags["vllm.gpu_memory_utilization"] * gpu
        terms["engine asleep" if asleep else "engine awake"] = ASLEEP if asleep else share
    return Memory("trainer, in an update", terms, gpu)


def rollout_memory(shape: ModelShape, flags: Mapping[str, Any], gpu: float) -> Memory:
    """The engine's GPU while it generates, with what the trainer leaves on it."""
    engine = engine_memory(shape, flags, gpu)
    terms: dict[str, float] = {
        "engine's weights": engine.weights,
        "KV cache": max(engine.cache, 0),
        "engine's own": ENGINE_RESERVE,
    }
    if colocated(flags):
        states = actor_states(shape, flags)
        asleep = flags["ds.enable_sleep"] and not flags["ds.adam_offload"]
        terms["trainer's weights"] = states.parameters
        if not asleep:
            terms["trainer's gradients and optimizer"] = states.gradients + states.optimizer
        terms["reserve"] = RESERVE
    return Memory("engine, while it generates", terms, gpu)


def engine_memory(shape: ModelShape, flags: Mapping[str, Any], gpu: float) -> Engine:
    """Weights and KV cache of an engine, in bfloat16 as OpenRLHF starts them."""
    tensor_parallel = flags["vllm.tensor_parallel_size"]
    weights = 2 * shape.parameters / tensor_parallel
    cache = flags["vllm.gpu_memory_utilization"] * gpu - weights - ENGINE_RESERVE
    return Engine(weights, cache, int(cache // token_bytes(shape, tensor_parallel)))


def token_bytes(shape: ModelShape, tensor_parallel: int) -> float:
    """KV cache of one token on one GPU; heads fewer than GPUs are held more than once."""
    heads = max(shape.key_value_heads / tensor_parallel, 1)
    head = shape.key_value // shape.key_value_heads
    return 2 * 2 * shape.layers * heads * head


def host_memory(shape: ModelShape, flags: Mapping[str, Any]) -> dict[str, float]:
    """Bytes of host memory by purpose: of the job's node, and of each node of the trainer."""
    responses = flags["rollout.batch_size"] * flags["rollout.n_samples_per_prompt"]
    # Token ids and two masks as int64, four log-probs or advantages as float32.
    batch = responses * flags["data.max_len"] * (3 * 8 + 4 * 4)
    per_node = flags["actor.num_gpus_per_node"]
    resting = 0.0
    if flags["ds.adam_offload"] or (flags["ds.enable_sleep"] and colocated(flags)):
        states = training_states(
            _all_parameters(shape, flags),
            trained=trained_parameters(shape, flags),
            zero_stage=max(flags["ds.zero_stage"], 1),
            shards=world(flags),
            dtype=flags["ds.param_dtype"],
            gradient_dtype=flags["ds.grad_accum_dtype"],
        )
        resting += per_node * (states.optimizer + states.gradients)
    if flags["vllm.enable_sleep"] and colocated(flags):
        resting += per_node * 2 * shape.parameters / flags["vllm.tensor_parallel_size"]
    return {"a rollout batch, at full length, on the job's node": batch, "each node": resting}


def _shares_reference(flags: Mapping[str, Any]) -> bool:
    return bool(flags["train.colocate_actor_ref"] or flags["train.colocate_all"])


def _layer_bytes(shape: ModelShape, tokens: int) -> float:
    """What the forward pass of one layer leaves for its backward pass, 2 bytes an element."""
    attention = 9 * shape.hidden + 3 * shape.query + 4 * shape.key_value
    if shape.sparse_layers:
        mlp = shape.experts_per_token * (2 * shape.hidden + 4 * shape.intermediate)
    else:
        mlp = 4 * shape.intermediate
    return 2.0 * tokens * (attention + mlp)


def _training_activations(shape: ModelShape, flags: Mapping[str, Any]) -> dict[str, float]:
    tokens = micro_batch_tokens(flags, "train")
    layer = _layer_bytes(shape, tokens)
    if flags["actor.gradient_checkpointing_enable"]:
        kept = 2.0 * shape.layers * tokens * shape.hidden
        layers = {"layer inputs (checkpoints)": kept, "one layer recomputed": 2 * layer}
    else:
        layers = {"activations of all layers": (shape.layers + 1) * layer}
    entropy = flags["actor.entropy_coef"] is not None
    return {**layers, **_log_prob_training(shape, flags, tokens, entropy)}


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


def _forward_activations(shape: ModelShape, flags: Mapping[str, Any]) -> dict[str, float]:
    tokens = micro_batch_tokens(flags, "rollout")
    terms = {"one layer": _layer_bytes(shape, tokens)}
    if config.chunked_log_probs(flags):
        block = 6.0 * min(BLOCK, tokens * shape.vocab)
        return terms | {"log-prob head (old log-probs)": block + 2.0 * tokens * shape.hidden}
    return terms | {"logits (old log-probs)": 6.0 * tokens * shape.vocab}
