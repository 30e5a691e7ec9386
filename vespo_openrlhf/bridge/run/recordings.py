"""`--offline.data` as the flags ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vespo_openrlhf import config, models
from vespo_openrlhf.recorded.checks import Limits
from vespo_openrlhf.recorded.options import OfflineOptions, Rewarding
from vespo_openrlhf.recorded.reading import Recording
from vespo_openrlhf.recorded.schema import tokenizer_digest


def check(flags: Mapping[str, Any]) -> None:
    """What the trainer will read is of this tokenizer and can be trained on; a line says how much
    of it.

    Raises:
        ValueError: it is not.
    """
    from openrlhf.utils.utils import get_tokenizer

    recording = open_recording(flags)
    model, data = flags["actor.model_name_or_path"], " ".join(flags["offline.data"])
    tokenizer = get_tokenizer(model, None, use_fast=not flags["data.disable_fast_tokenizer"])
    recorded, own = recording.origin.tokenizer, tokenizer_digest(tokenizer)
    if recorded and recorded != own:
        raise ValueError(
            f"--offline.data {data} has tokens of another tokenizer ({recorded}, of "
            f"{recording.origin.model}) than that of --actor.model_name_or_path {model} ({own}): "
            "train a model with that tokenizer, or import the texts anew"
        )
    print(f"[vespo] --offline.data: {recording.account()}", flush=True)


def limits(flags: Mapping[str, Any]) -> Limits:
    """What the run can take."""
    options = config.read(OfflineOptions, flags)
    model = models.text_config(models.check_model(flags["actor.model_name_or_path"]))
    return Limits(
        model.get("vocab_size") or 2**31,
        flags["data.max_len"],
        needs_log_probs=options.behaviour == "recorded",
        needs_reward=rewarding(flags) == "recorded",
    )


def rewarding(flags: Mapping[str, Any]) -> Rewarding:
    """Whose reward is trained on: that of the run's reward model, where it has one."""
    if flags["reward.model_name_or_path"]:
        return "model"
    alone = flags["distill.teacher"] and flags["distill.coef"] == 1
    return "none" if alone else "recorded"


def open_recording(flags: Mapping[str, Any]) -> Recording:
    """Look at all of it.

    Raises:
        ValueError: it cannot be read, or nothing in it can be trained on.
    """
    paths = [Path(path) for path in config.read(OfflineOptions, flags).data]
    try:
        return Recording(
            paths,
            flags["rollout.n_samples_per_prompt"],
            limits(flags),
            trained_only=config.read(OfflineOptions, flags).order == "recorded",
        )
    except ValueError as error:
        raise ValueError(f"--offline.data {error}") from error
