"""Rules on batches and lag: do the numbers divide, and can the bound be kept?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vespo_openrlhf.bridge.settings import scheduler_config
from vespo_openrlhf.check.findings import Finding, error
from vespo_openrlhf.check.memory import world
from vespo_openrlhf.check.model import ModelShape

_NO_LIMIT = int(1e8)  # OpenRLHF's default of --data.max_samples


@dataclass(frozen=True)
class Batches:
    """The arithmetic of a run.

    Attributes:
        prompts: in a rollout batch.
        samples: responses per prompt.
        responses: in an update.
        updates: N, per rollout batch.
        ranks: data-parallel ranks of the trainer, each with `responses / ranks` of an update.
        episodes: passes over the prompts.
        all_prompts: in all passes; None if their number is unknown.
    """

    prompts: int
    samples: int
    responses: int
    updates: int
    ranks: int
    episodes: int
    all_prompts: int | None

    @classmethod
    def of(cls, flags: Mapping[str, Any], rows: int | None) -> Batches:
        """From resolved flags, and the rows of the prompt data if they are known."""
        prompts, samples = flags["rollout.batch_size"], flags["rollout.n_samples_per_prompt"]
        return cls(
            prompts=prompts,
            samples=samples,
            responses=flags["train.batch_size"],
            updates=prompts * samples // flags["train.batch_size"],
            ranks=data_parallel_ranks(flags),
            episodes=flags["train.num_episodes"],
            all_prompts=all_prompts(flags, rows),
        )

    @property
    def total(self) -> int | None:
        """Rollout batches of the whole run, the last one perhaps short."""
        return None if self.all_prompts is None else -(-self.all_prompts // self.prompts)


def data_parallel_ranks(flags: Mapping[str, Any]) -> int:
    """Ranks that each take their own part of an update."""
    return world(flags) // (flags["ds.ring_attn_size"] * flags["ds.tensor_parallel_size"])


def all_prompts(flags: Mapping[str, Any], rows: int | None) -> int | None:
    """Prompts of all passes; without the data what --data.max_samples says."""
    limit: int = flags["data.max_samples"]
    if rows is None and limit >= _NO_LIMIT:
        return None
    episodes: int = flags["train.num_episodes"]
    return min(limit, limit if rows is None else rows) * episodes


_SIZES = (
    *("rollout.batch_size", "rollout.n_samples_per_prompt", "rollout.micro_batch_size"),
    *("train.batch_size", "train.micro_batch_size", "train.num_episodes", "data.max_len"),
    *("actor.num_nodes", "actor.num_gpus_per_node", "vllm.tensor_parallel_size"),
    *("ds.ring_attn_size", "ds.tensor_parallel_size"),
)


def check_sizes(flags: Mapping[str, Any]) -> Iterator[Finding]:
    """Numbers that everything else divides by."""
    for name in _SIZES:
        if flags[name] < 1:
            yield error(f"--{name} is {flags[name]}", "set it to at least 1")


def check_batches(flags: Mapping[str, Any], rows: int | None) -> Iterator[Finding]:
    """Whole updates of whole groups, in equal parts on every rank."""
    prompts, samples = flags["rollout.batch_size"], flags["rollout.n_samples_per_prompt"]
    responses, update = prompts * samples, flags["train.batch_size"]
    parallel = flags["ds.ring_attn_size"] * flags["ds.tensor_parallel_size"]
    if world(flags) % parallel:
        yield error(
            f"{world(flags)} GPUs of the trainer do not split into groups of {parallel} "
            "(--ds.ring_attn_size x --ds.tensor_parallel_size)",
            "set --actor.num_gpus_per_node to a multiple of it",
        )
        return
    ranks = data_parallel_ranks(flags)
    if responses % update:
        low = max(update // samples, 1)
        yield error(
            f"--train.batch_size {update} does not divide the rollout batch of {prompts} prompts "
            f"x {samples} = {responses} responses: the updates would not line up with the batches",
            f"set --rollout.batch_size to a multiple of {low}, N x {low} for N updates",
        )
    if update % samples:
        yield error(
            f"--train.batch_size {update} is not a whole number of groups of {samples} responses "
            "(--rollout.n_samples_per_prompt)",
            f"set --train.batch_size {_multiple(update, samples)}",
        )
    micro = 1 if flags["train.dynamic_batch_enable"] else flags["train.micro_batch_size"]
    if update % (ranks * micro):
        each = f" x {micro} per micro-batch" if micro > 1 else ""
        yield error(
            f"--train.batch_size {update} does not split evenly over {ranks} data-parallel "
            f"ranks{each}",
            f"set --train.batch_size to a multiple of {ranks * micro}",
        )
    forward = 1 if flags["train.dynamic_batch_enable"] else flags["rollout.micro_batch_size"]
    if responses % (ranks * forward):
        yield error(
            f"a rollout batch of {responses} responses does not split evenly over {ranks} "
            f"data-parallel ranks x {forward} (--rollout.micro_batch_size): ranks would wait for "
            "one another for ever",
            f"make --rollout.batch_size x --rollout.n_samples_per_prompt a multiple of "
            f"{ranks * forward}",
        )
    available = all_prompts(flags, rows)
    if available is not None and available < prompts:
        yield error(
            f"all passes together have {available} prompts, fewer than a rollout batch of "
            f"{prompts} (--rollout.batch_size)",
            f"take more data, raise --train.num_episodes, or set --rollout.batch_size to at most "
            f"{available}",
        )


def check_lengths(flags: Mapping[str, Any], shape: ModelShape | None) -> Iterator[Finding]:
    """A prompt and a response fit together into what the model can read."""
    longest, response = flags["data.max_len"], flags["rollout.max_new_tokens"]
    if response is not None and response >= longest:
        yield error(
            f"--rollout.max_new_tokens {response} leaves no room for a prompt in --data.max_len "
            f"{longest}, which counts both",
            f"set --data.max_len {response + 1024} for prompts of up to 1,024 tokens",
        )
    if shape is not None and 0 < shape.max_positions < longest:
        yield error(
            f"--data.max_len {longest} is more than the {shape.max_positions} positions of the "
            "model, and vLLM will not start",
            f"set --data.max_len to at most {shape.max_positions}",
        )


def check_lag(flags: Mapping[str, Any]) -> Iterator[Finding]:
    """The bound can be kept, and the scheduler can run, with batches that divide."""
    try:
        scheduler_config(flags)
    except ValueError as refused:
        yield error(f"scheduler: {refused}")


def _multiple(value: int, of: int) -> int:
    return max(value // of, 1) * of
