"""What cannot work, told before anything starts; a module a subject.

One fault a rule. Each raises ValueError, which names the flag, what is wrong with it, and what to
write instead.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from vespo_openrlhf import config
from vespo_openrlhf.bridge.rules import (
    adapters,
    data,
    distill,
    folders,
    lag,
    loss,
    model,
    moe,
    offline,
    places,
    reward,
    sizes,
    support,
)
from vespo_openrlhf.bridge.scheduler_config import scheduler_config

#: What training refuses by the flags alone, and `check` too. The others take what the first has
#: seen.
FLAG_RULES: tuple[Callable[[dict[str, Any]], object], ...] = (
    sizes.check_sizes,
    *(functools.partial(config.read, group.options) for group in config.GROUPS),
    offline.check_record,
    offline.check_offline,
    distill.check_distillation,
    support.check_unsupported,
    support.check_accumulation,
    support.check_ema,
    adapters.check_adapters,
    reward.check_reward_options,
    reward.check_reward_given,
    support.check_effect,
    loss.check_loss,
    loss.check_loss_flags,
    loss.check_own_loss,
    loss.check_rollout_distribution,
    loss.check_correction,
    sizes.check_groups,
    scheduler_config,
    lag.check_synchronous,
    lag.check_kv,
    lag.check_target_ess,
    sizes.check_lengths,
    sizes.check_ranks,
    sizes.check_update,
    sizes.check_forward,
    places.check_places,
    data.check_mixture,
    folders.check_run_folder,
    offline.check_recording,
)

#: By the flags and the model's config.json, its text part where it has several.
MODEL_RULES: tuple[Callable[[Mapping[str, Any], Mapping[str, Any]], None], ...] = (
    model.check_positions,
    model.check_heads,
    model.check_aux_loss,
    adapters.check_adapted_experts,
    moe.check_routing_replay,
)
