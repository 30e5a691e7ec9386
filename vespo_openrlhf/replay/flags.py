"""Which flags of a recorded run go to a training from its recording, and to which loss."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vespo_openrlhf.bridge.run.folder import RunFolder
from vespo_openrlhf.config import LOSS_OPTION_FLAGS
from vespo_openrlhf.reward.options import RewardOptions

#: Of no weight where samples are read from disk, or this training's own. A name that ends in a dot
#: stands for all that begin with it.
DROPPED = (
    # engines, and how far they may be ahead
    *("vllm.", "lag.", "moe.routing_replay", "nodes."),
    *("train.async_enable", "train.async_queue_size", "train.partial_rollout_enable"),
    *("rollout.engine_timeout", "rollout.episode_timeout", "rollout.in_flight_per_engine"),
    *("rollout.reward_timeout", "rollout.vllm_generate_batch_size"),
    # prompts, evaluations, and what made the reward; OpenRLHF's penalties come after it, and stay
    *("data.prompt_dataset", "data.prompt_probs", "data.prompt_split", "data.max_samples"),
    *("data.overlong_prompts", "data.dataloader_num_workers", "data.image_key"),
    *("eval.", "reward.remote_url"),
    *(f"reward.{field.name}" for field in dataclasses.fields(RewardOptions)),
    # what the run left, and where
    *("run.", "ckpt.", "logger.", "offline.", "train.num_episodes", "local_rank"),
)

#: Options of the loss: of no use to another one, which takes what it was published with.
LOSS_FLAGS = (
    *sorted({flag.split()[0].removeprefix("--") for flag in LOSS_OPTION_FLAGS.values()}),
    *("actor.policy_loss_type", "actor.eps_clip", "vespo.loss_options"),
    *(f"algo.advantage.is_correction_{of}" for of in ("level", "mode", "gating", "threshold")),
)


def read_config(run: Path) -> dict[str, Any]:
    """The resolved flags of a run that recorded its samples, by their dotted names.

    Raises:
        ValueError: it is no such run.
    """
    path = run / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{run} holds no config.json: give the --run.dir of a training run with --run.record"
            + ("" if run.is_dir() else " (there is no such folder)")
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(config, dict) or "actor.policy_loss_type" not in config:
        raise ValueError(f"{path} holds no flags of a training run")
    if (holder := RunFolder(run).holder) is not None:
        raise ValueError(
            f"{run} is in use by {holder}: wait until it has ended, so that all losses are given "
            "the same samples"
        )
    if not config.get("run.record"):
        raise ValueError(f"{run} has recorded no samples: train with --run.record")
    return config


def loss_flag(loss: str) -> str:
    """The value of `--actor.policy_loss_type`: grpo is ppo, as in the recipes. A loss of a user's
    own is named by its whole path."""
    file, colon, function = loss.rpartition(":")
    if file.endswith(".py"):
        return f"{Path(file).resolve()}{colon}{function}"
    return "ppo" if loss == "grpo" else loss


def training_flags(config: Mapping[str, Any], loss: str) -> dict[str, Any]:
    """The flags of the run that say how its samples are trained on.

    Args:
        config: of `read_config`.
        loss: of `loss_flag`; the run's own keeps its options.
    """
    own = loss == config["actor.policy_loss_type"]
    kept = {
        flag: value
        for flag, value in config.items()
        if not _is_dropped(flag) and (own or flag not in LOSS_FLAGS)
    }
    return kept | {"actor.policy_loss_type": loss}


def _is_dropped(flag: str) -> bool:
    return any(flag == name or (name[-1] == "." and flag.startswith(name)) for name in DROPPED)


def to_words(flags: Mapping[str, Any], parser: argparse.ArgumentParser) -> list[str]:
    """Flags as a command line: those that are not as the parser has them by default.

    Args:
        flags: by their dotted names, as JSON gives them back. One that this version does not have
            is left out, as is None, which no command line can say.
        parser: of `check.resolve.build_parser`.
    """
    words: list[str] = []
    for action in parser._actions:
        value = flags.get(action.dest)
        if value is None or value == _as_json(parser.get_default(action.dest)):
            continue
        if action.choices and value not in action.choices:
            continue  # set on the CPU stack, as it will be again
        if action.nargs == 0:  # a switch; two may share a flag
            words += [action.option_strings[0]] * (action.const == value)
        else:
            values = value if isinstance(value, list) else [value]
            words += [action.option_strings[0], *map(str, values)] if values else []
    return words


def _as_json(default: Any) -> Any:
    return list(default) if isinstance(default, tuple) else default
