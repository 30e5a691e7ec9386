"""OpenRLHF's flags as the scheduler's options, and the set-ups that are refused."""

import pytest

from vespo_openrlhf.bridge.scheduler_config import scheduler_config
from vespo_openrlhf.scheduling import LagOptions, make_policy

# 16 prompts x 4 samples in 4 updates.
FLAGS = {
    "rollout.batch_size": 16,
    "rollout.n_samples_per_prompt": 4,
    "rollout.in_flight_per_engine": 32,
    "rollout.reward_timeout": 60.0,
    "rollout.engine_timeout": 60.0,
    "rollout.episode_timeout": 60.0,
    "train.batch_size": 16,
    "train.max_epochs": 1,
    "train.async_enable": True,
    "train.partial_rollout_enable": False,
    "offline.data": (),
    "distill.teacher": None,
    "vllm.num_engines": 2,
    "vllm.enable_sleep": False,
    "train.colocate_all": False,
    "lag.max": None,
    "lag.on_stale": "wait",
    "lag.sync_every": None,
    "lag.target_ess": None,
    "lag.kv": "recompute",
    "lag.policy": "bounded",
}
SYNCHRONOUS = {"train.async_enable": False}
TAKES_TURNS = SYNCHRONOUS | {"train.colocate_all": True, "vllm.enable_sleep": True}


def test_sizes_in_groups_and_updates() -> None:
    config = scheduler_config(FLAGS | {"train.partial_rollout_enable": True})
    assert (config.prompts_per_batch, config.samples_per_prompt) == (16, 4)
    assert (config.updates_per_batch, config.groups_per_update) == (4, 4)
    assert (config.in_flight_per_engine, config.reward_timeout) == (32, 60.0)
    assert config.partial_rollout
    assert not scheduler_config(FLAGS).partial_rollout


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({}, 7),  # (N - 1) + N: one batch is generated while one trains
        ({"lag.max": 16}, 16),
        ({"lag.sync_every": 8}, 11),  # and 8 - gcd(4, 8) for the sync
        (SYNCHRONOUS, 3),
        (SYNCHRONOUS | {"lag.max": 16}, 3),  # more would not be synchronous
        (SYNCHRONOUS | {"lag.max": 3}, 3),
        (SYNCHRONOUS | {"train.batch_size": 64}, 0),  # on-policy
        (SYNCHRONOUS | {"lag.sync_every": 3}, 5),  # (N - 1) + 3 - gcd(4, 3)
        (TAKES_TURNS | {"lag.sync_every": 4}, 3),
    ],
)
def test_the_bound_on_the_lag(changes: dict, limit: int) -> None:
    assert make_policy(scheduler_config(FLAGS | changes)).limit == limit


def test_the_other_lag_flags_arrive() -> None:
    flags = {"lag.max": 9, "lag.on_stale": "drop", "lag.sync_every": 2, "lag.target_ess": 0.5}
    assert scheduler_config(FLAGS | flags).lag == LagOptions(9, "drop", 2, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"train.batch_size": 10},
            r"16 prompts x --rollout\.n_samples_per_prompt 4 = 64 samples do not split .* "
            r"of --train\.batch_size 10 .* a divisor of 64 and a multiple of 4",
        ),
        ({"train.batch_size": 24}, "a divisor of 64 and a multiple of 4"),
        ({"train.batch_size": 128}, "do not split into mini-batches"),
        ({"train.max_epochs": 2}, r"--train\.max_epochs 2: every sample is trained once"),
        ({"vllm.num_engines": 0}, r"set --vllm\.num_engines to 1 or more"),
        ({"vllm.num_engines": None}, r"set --vllm\.num_engines to 1 or more"),
        ({"rollout.in_flight_per_engine": 3}, "less than one group of 4 samples"),
        ({"rollout.reward_timeout": 0.0}, r"--rollout\.reward_timeout must be above 0"),
        ({"rollout.episode_timeout": 0.0}, r"--rollout\.episode_timeout must be above 0"),
        ({"rollout.engine_timeout": -1.0}, r"--rollout\.engine_timeout must be above 0"),
        ({"lag.max": 2}, r"lag\.max 2 cannot be kept: .* 3 \+ 0 = 3 > 2"),
        (SYNCHRONOUS | {"lag.max": 2}, r"3 \+ 0 = 3 > 2"),
        ({"lag.max": -1}, r"--lag\.max must be at least 0"),
        ({"lag.on_stale": "never"}, r"--lag\.on_stale must be one of"),
        ({"lag.target_ess": 1.0}, r"--lag\.target_ess must be above 0 and below 1"),
        (TAKES_TURNS | {"lag.sync_every": 2}, r"--lag\.sync_every 2 with --vllm\.enable_sleep"),
        ({"lag.sync_every": 0}, r"--lag\.sync_every must be at least 1"),
        ({"lag.policy": "fifo", "lag.max": 7}, r"lag\.max 7 is not used by lag\.policy fifo"),
        ({"lag.policy": "fifo", "lag.on_stale": "drop"}, r"lag\.on_stale drop is not used by"),
    ],
)
def test_what_cannot_work_is_refused_with_the_arithmetic(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scheduler_config(FLAGS | changes)
