"""What routing replay keeps: the experts that each token took in the engine.

All layers count, dense ones too, as vLLM returns them. The engine's buffers of a step, some 10 MB
of a GPU, are within `memory.ENGINE_RESERVE`; what the trainer's GPU holds is in `activations`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vespo_openrlhf.bridge.rules.moe import replays
from vespo_openrlhf.bridge.scheduler_config import scheduler_config
from vespo_openrlhf.check.activations import REPLAYED, training_activations
from vespo_openrlhf.check.findings import Finding, warning
from vespo_openrlhf.check.gpus import needed_nodes
from vespo_openrlhf.check.memory import GIB, Engine
from vespo_openrlhf.check.shape import ModelShape
from vespo_openrlhf.check.speed import PROMPT
from vespo_openrlhf.scheduling import make_policy
from vespo_openrlhf.scheduling.policies.fifo import BUFFERED_BATCHES

#: Of a node's memory what Ray gives its object store, unless told: a share, and bytes at most.
RAY_SHARE, RAY_MOST = 0.3, 200e9


@dataclass(frozen=True)
class Replay:
    """Bytes by place.

    Attributes:
        token: of the experts of one token.
        engine: of host memory for each engine: vLLM keeps them of every token in its KV cache.
        responses: how many finished ones the driver holds at most.
        store, store_longest: of so many in Ray's object store, on the job's node: at the mean
            length, and if all were of the longest.
        micro_batch: of a trainer's GPU.
    """

    token: int
    engine: float
    responses: int
    store: float
    store_longest: float
    micro_batch: float

    @classmethod
    def of(
        cls, shape: ModelShape, flags: Mapping[str, Any], engine: Engine, mean_response: float
    ) -> Replay | None:
        """None where nothing is replayed.

        Args:
            shape: the model's.
            flags: resolved; batches divide.
            engine: for the tokens of its KV cache.
            mean_response: tokens.
        """
        if not (replays(flags) and shape.experts):
            return None
        token = shape.layers * shape.experts_per_token * (1 if shape.experts <= 256 else 2)
        responses, longest = held_responses(flags), flags["data.max_len"] - 1
        mean = min(PROMPT + mean_response, longest)
        return cls(
            token=token,
            engine=float(token * max(engine.tokens, 0)),
            responses=responses,
            store=responses * mean * token,
            store_longest=float(responses * longest * token),
            micro_batch=training_activations(shape, flags)[REPLAYED],
        )


def held_responses(flags: Mapping[str, Any]) -> int:
    """Finished responses that the driver holds at most.

    A bound of L leaves room for L + 1 updates from the batch that trains on, beside the N of the
    batch before, which may not have been let go yet. A policy without a bound counts as `fifo`,
    which buffers so many batches, beside the two and what is in flight.
    """
    config = scheduler_config(flags)
    limit = make_policy(config).limit
    if limit is not None:
        updates = limit + 1 + config.updates_per_batch
        return int(updates * flags["train.batch_size"])
    batches = (BUFFERED_BATCHES + 2) * config.prompts_per_batch * config.samples_per_prompt
    return int(batches + flags["vllm.num_engines"] * config.in_flight_per_engine)


def check_replay(
    replay: Replay, flags: Mapping[str, Any], host: Mapping[str, float], node: float | None
) -> Iterator[Finding]:
    """Whether the nodes hold it.

    Args:
        host: what else is in their memory, by purpose.
        node: bytes of a node's memory; None: nothing is known, and Ray's own limit is left.
    """
    asked = f"--moe.routing_replay {flags['moe.routing_replay']}"
    less = "lower --lag.max or --rollout.batch_size, or leave replay out"
    room = RAY_MOST if node is None else min(RAY_SHARE * node, RAY_MOST)
    if replay.store > room:
        yield warning(
            f"{asked}: up to {replay.responses} responses wait, with {replay.store / GIB:.0f} GiB "
            f"of experts in Ray's object store on the job's node; of itself it takes "
            f"{room / GIB:.0f} GiB at most, and writes the rest to disk",
            f"start Ray there with --object-store-memory {replay.store * 1.1:.0f}, {less}",
        )
    if node is None:
        return
    of_gpus = max(needed_nodes(flags)[1] // flags["vllm.tensor_parallel_size"], 1)
    engines = min(flags["vllm.num_engines"], of_gpus)
    needed = replay.store + engines * replay.engine + sum(host.values())
    if needed > node:
        yield warning(
            f"{asked}: the job's node is asked for {needed / GIB:.0f} of its {node / GIB:.0f} GiB "
            f"of memory, {replay.store / GIB:.0f} of it for the experts of responses that wait, "
            f"{engines * replay.engine / GIB:.0f} for those that {engines} engines keep",
            less,
        )
