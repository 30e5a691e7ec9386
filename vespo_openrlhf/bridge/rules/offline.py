"""Recorded samples: what is kept of a run, and what trains from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vespo_openrlhf import config
from vespo_openrlhf.bridge.roles import Flags
from vespo_openrlhf.recorded.options import OfflineOptions
from vespo_openrlhf.recorded.reading import read_common_origin


def check_record(flags: Flags) -> None:
    """What is kept has a place, and says all that is needed to train from it."""
    if not flags["run.record"]:
        return
    if flags["run.dir"] is None:
        raise ValueError("--run.record keeps samples in the run folder: set --run.dir")
    if flags["data.max_images_per_prompt"]:
        raise ValueError(
            "--run.record keeps tokens, and --data.max_images_per_prompt "
            f"{flags['data.max_images_per_prompt']} puts images among them, which it does not "
            "keep: leave one of the flags out"
        )


def check_offline(flags: Flags) -> None:
    """Nothing is asked of engines that are not there."""
    options = config.read(OfflineOptions, flags)
    if not options.data:
        given = [
            name
            for name, value in vars(options).items()
            if value != getattr(OfflineOptions(), name)
        ]
        if given:
            raise ValueError(
                f"--offline.{given[0]} has no effect without --offline.data: name the recording "
                "to train from, or leave the flag out"
            )
        return
    refused: Mapping[str, tuple[Any, str]] = {
        "train.async_enable": (False, "nothing is generated, so that nothing can overlap"),
        "run.record": (False, "the samples are on disk already"),
        "vllm.enable_sleep": (False, "no engine works in turn with the trainer"),
        "moe.routing_replay": ("off", "a recording does not say which experts a token took"),
        "data.max_images_per_prompt": (0, "a recording holds no images"),
    }
    for flag, (off, why) in refused.items():
        if flags[flag] != off:
            raise ValueError(f"--{flag} with --offline.data: {why}; leave the flag out")
    if len(set(options.data)) < len(options.data):
        raise ValueError(
            f"--offline.data {' '.join(options.data)} names a recording twice; --offline.epochs 2 "
            "trains on it twice"
        )
    if flags["train.colocate_all"] and flags["vllm.num_engines"]:
        raise ValueError(
            "--train.colocate_all with --offline.data: engines are there for evaluations alone, "
            "and have GPUs of their own; leave the flag out, --train.colocate_actor_ref puts "
            "policy and reference on the same"
        )
    if flags["eval.dataset"] and not flags["vllm.num_engines"]:
        raise ValueError(
            "--eval.dataset with --offline.data: the problems are answered by engines; set "
            "--vllm.num_engines to 1 or more, or evaluate the model afterwards (vespo eval run)"
        )
    if options.behaviour != "recorded" and flags["run.dir"] is None:
        raise ValueError(
            f"--offline.behaviour {options.behaviour} keeps log-probs in the run folder: set "
            "--run.dir"
        )


def check_recording(flags: Flags) -> None:
    """The shards are there, can be read, and are of this temperature."""
    options = config.read(OfflineOptions, flags)
    if not options.data:
        return
    try:
        origin = read_common_origin([Path(path) for path in options.data])
    except ValueError as error:
        raise ValueError(f"--offline.data {error}") from error
    if options.behaviour == "recorded" and origin.temperature != flags["rollout.temperature"]:
        raise ValueError(
            f"--offline.data {' '.join(options.data)} was sampled at temperature "
            f"{origin.temperature:g}, and log-probs are compared at --rollout.temperature "
            f"{flags['rollout.temperature']:g}: set it to {origin.temperature:g}"
        )
