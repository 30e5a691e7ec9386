"""Memory of one GPU, of the trainer and of an engine, from the model's shape and the flags.

`RESERVE` stands for what nobody counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vespo_openrlhf.bridge.roles import colocated, gpus
from vespo_openrlhf.check.activations import forward_activations, training_activations
from vespo_openrlhf.check.shape import ModelShape
from vespo_openrlhf.check.states import (
    actor_states,
    all_parameters,
    trained_parameters,
    training_states,
)

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
        **training_activations(shape, flags),
    }
    forward: dict[str, float] = {}
    if reads_old_log_probs:
        forward = forward_activations(shape, flags)
    # Adam reads a copy of its gradients in float32, made when the activations are gone: DeepSpeed
    # flattens them, whatever they were added up in.
    shards = gpus(flags) // flags["ds.tensor_parallel_size"]
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
            all_parameters(shape, flags),
            trained=trained_parameters(shape, flags),
            zero_stage=max(flags["ds.zero_stage"], 1),
            shards=gpus(flags),
            dtype=flags["ds.param_dtype"],
            gradient_dtype=flags["ds.grad_accum_dtype"],
        )
        resting += per_node * (states.optimizer + states.gradients)
    if flags["vllm.enable_sleep"] and colocated(flags):
        resting += per_node * 2 * shape.parameters / flags["vllm.tensor_parallel_size"]
    return {"a rollout batch, at full length, on the job's node": batch, "each node": resting}


def _shares_reference(flags: Mapping[str, Any]) -> bool:
    return bool(flags["train.colocate_actor_ref"] or flags["train.colocate_all"])
