"""The flags as the scheduler's options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vespo_openrlhf import config
from vespo_openrlhf.scheduling import LagOptions, SchedulerConfig, make_policy
from vespo_openrlhf.scheduling.options import RolloutOptions


def scheduler_config(flags: Mapping[str, Any]) -> SchedulerConfig:
    """The scheduler's part of a run.

    Raises:
        ValueError: sizes that do not fit each other, a lag bound that cannot be kept, or a policy
            that there is not.
    """
    groups, n = flags["rollout.batch_size"], flags["rollout.n_samples_per_prompt"]
    size = flags["train.batch_size"]
    if size % n or (groups * n) % size:
        raise ValueError(
            f"--rollout.batch_size {groups} prompts x --rollout.n_samples_per_prompt {n} = "
            f"{groups * n} samples do not split into mini-batches of --train.batch_size {size} "
            f"that hold whole groups of {n}: make it a divisor of {groups * n} and a multiple of "
            f"{n}"
        )
    if flags["train.max_epochs"] > 1:
        raise ValueError(
            f"--train.max_epochs {flags['train.max_epochs']}: every sample is trained once, so "
            "that its lag is known; leave the flag out, and raise the updates per rollout batch "
            "with a smaller --train.batch_size"
        )
    if not (flags["vllm.num_engines"] or flags["offline.data"]):
        raise ValueError(
            "samples come from vLLM: set --vllm.num_engines to 1 or more, or --offline.data to "
            "recorded ones"
        )
    rollout = config.read(RolloutOptions, flags)
    lag, updates = config.read(LagOptions, flags), groups * n // size
    takes_turns = flags["vllm.enable_sleep"] and flags["train.colocate_all"]
    if takes_turns and lag.sync_every not in (None, updates):
        raise ValueError(
            f"--lag.sync_every {lag.sync_every} with --vllm.enable_sleep: engines that sleep while "
            f"the trainer works are given its weights when a rollout batch is trained, after its "
            f"{updates} updates; leave the flag out"
        )
    if not flags["train.async_enable"]:
        lag = lag.synchronous(updates)
    scheduler = SchedulerConfig(
        prompts_per_batch=groups,
        samples_per_prompt=n,
        updates_per_batch=updates,
        in_flight_per_engine=rollout.in_flight_per_engine,
        lag=lag,
        partial_rollout=bool(flags["train.partial_rollout_enable"]),
        reward_timeout=rollout.reward_timeout,
    )
    make_policy(scheduler)
    return scheduler
