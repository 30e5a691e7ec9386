"""What scores the responses, and its options."""

from __future__ import annotations

import os

from vespo_openrlhf import config
from vespo_openrlhf.agents.loading import defines_executor, load_agent
from vespo_openrlhf.bridge.roles import Flags
from vespo_openrlhf.reward.options import RewardOptions


def check_reward_given(flags: Flags) -> None:
    """Something scores the responses, and a file that does is there."""
    agent = flags["train.agent_func_path"]
    if agent:
        check_agent(agent)
    elif not flags["reward.remote_url"] and not flags["reward.model_name_or_path"]:
        raise ValueError(
            "nothing gives a reward: set --reward.remote_url to reward/math_reward.py or a file "
            "of yours"
        )


def check_agent(path: str) -> None:
    """A file of OpenRLHF's kind is there; one of ours has an agent that can be made."""
    try:
        if not defines_executor(path):
            load_agent(path)
    except ValueError as error:
        raise ValueError(f"--train.agent_func_path: {error}") from error


# Our shaping term -> OpenRLHF's flag for the same thing.
_SAME_TERM = {
    "overlong_max": "overlong_buffer_len",
    "truncation_penalty": "stop_properly_penalty_coef",
}


def check_reward_options(flags: Flags) -> None:
    """Options must reach a reward, name files that are there, and count no term twice."""
    options = config.read(RewardOptions, flags)
    for ours, upstream in _SAME_TERM.items():
        if getattr(options, ours) and flags[f"reward.{upstream}"] is not None:
            raise ValueError(
                f"--reward.{ours} and --reward.{upstream} both shorten responses and would count "
                "twice: leave one of them out"
            )
    for source, target in options.sources.items():
        if not os.path.isfile(target.rpartition(":")[0]):
            raise ValueError(f"--reward.sources {source}={target}: there is no such file")
    reward = flags["reward.remote_url"] or ""
    if reward.endswith(".py") or flags["train.agent_func_path"]:
        return
    defaults = RewardOptions()
    if options != defaults:
        changed = [n for n, v in vars(options).items() if v != getattr(defaults, n)]
        raise ValueError(
            f"--reward.{changed[0]} is an option of reward/math_reward.py and of your own "
            "make_reward_func, and --reward.remote_url names no such file"
        )
