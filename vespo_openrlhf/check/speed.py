"""How long a run takes, from a few stated rates. Roofs, not measurements.

Generation is bound by memory: each step of an engine reads its weights once and the KV cache of
every sequence it decodes. Training is bound by arithmetic, and with ZeRO-3 by the network, over
which each pass of each micro-batch gathers the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vespo_openrlhf.bridge.roles import colocated, gpus
from vespo_openrlhf.check.activations import micro_batch_tokens
from vespo_openrlhf.check.memory import engine_memory, token_bytes
from vespo_openrlhf.check.shape import ModelShape

if TYPE_CHECKING:
    from vespo_openrlhf.check.batches import Batches

#: Seconds of a decode step that do not depend on the model.
STEP_OVERHEAD = 0.005
#: Tokens of a prompt, as a rule.
PROMPT = 256


@dataclass(frozen=True)
class Rates:
    """What is assumed of a GPU; the defaults are an H100's. Flags: `--{field}`.

    Attributes:
        tflops: bf16 arithmetic at its peak, 10^12 per second.
        utilisation: the share of it that training reaches.
        bandwidth: of its memory, GB/s, of which decoding reaches about half.
        network: GB/s at which it gathers sharded weights.
        mean_response: tokens; None: half of the longest.
    """

    tflops: float = 989.0
    utilisation: float = 0.3
    bandwidth: float = 3350.0
    network: float = 40.0
    mean_response: float | None = None


@dataclass(frozen=True)
class Speed:
    """Seconds of a rollout batch, and the run's hours.

    Attributes:
        generate, train: seconds per rollout batch; one after the other, or together if
            asynchronous.
        gather: the part of `train` spent on ZeRO-3's gathering.
        batch: seconds per rollout batch in all.
        hours: of the run; None where its length is unknown.
        tokens_per_second: response tokens that one GPU of an engine decodes.
        mean_response: tokens, as assumed.
    """

    generate: float
    train: float
    gather: float
    batch: float
    hours: float | None
    tokens_per_second: float
    mean_response: float


def estimate(
    shape: ModelShape,
    flags: Mapping[str, Any],
    batches: Batches,
    rates: Rates,
    gpu: float,
    *,
    reads_old_log_probs: bool,
) -> Speed:
    """Seconds per rollout batch. `gpu`: bytes of one GPU, which bound the KV cache."""
    longest = flags["rollout.max_new_tokens"] or flags["data.max_len"]
    mean = rates.mean_response or longest / 2
    responses = batches.prompts * batches.samples
    parallel, engines = flags["vllm.tensor_parallel_size"], flags["vllm.num_engines"] or 1

    in_flight = flags["rollout.in_flight_per_engine"]
    engine = engine_memory(shape, flags, gpu)
    at_once = max(min(in_flight, responses / engines, engine.tokens / (PROMPT + mean)), 1)
    memory_rate = rates.bandwidth * 1e9 / 2
    weights = engine.weights / memory_rate + STEP_OVERHEAD
    cache = at_once * (PROMPT + mean / 2) * token_bytes(shape, parallel) / memory_rate
    tokens_per_second = at_once / (weights + cache)
    # However small the batch, its longest response is decoded token by token.
    generate = max(responses * mean / engines / tokens_per_second, longest * weights)

    tokens = responses * (PROMPT + mean)
    passes = 8 if flags["actor.gradient_checkpointing_enable"] else 6
    passes += 2 if reads_old_log_probs else 0
    arithmetic = tokens * passes * shape.active_parameters
    compute = arithmetic / (gpus(flags) * rates.tflops * 1e12 * rates.utilisation)
    gather = 0.0
    if flags["ds.zero_stage"] == 3 and gpus(flags) > 1:
        per_micro_batch = 2 + (1 if reads_old_log_probs else 0)
        micro_batches = tokens / gpus(flags) / micro_batch_tokens(flags, "train")
        gather = micro_batches * per_micro_batch * 2 * shape.parameters / (rates.network * 1e9)
    # Gathering overlaps with computing as far as it can.
    train = max(compute, gather)
    together = flags["train.async_enable"] and not colocated(flags)
    batch = max(generate, train) if together else generate + train
    hours = None if batches.total is None else batches.total * batch / 3600
    return Speed(generate, train, gather, batch, hours, tokens_per_second / parallel, mean)
