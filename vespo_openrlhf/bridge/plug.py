"""Puts our classes where OpenRLHF's command line is about to look for its own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any
from unittest import mock

import ray
from openrlhf.trainer import ppo_trainer, ppo_trainer_async
from openrlhf.trainer.ray import ppo_actor, vllm_engine

from vespo_openrlhf.bridge.actor import PolicyActor
from vespo_openrlhf.bridge.engine import VersionedRollout
from vespo_openrlhf.bridge.trainer import ScheduledTrainer
from vespo_openrlhf.cpu import settings as cpu_settings


@contextlib.contextmanager
def in_place() -> Iterator[None]:
    """Our policy actor, trainer and engines under OpenRLHF's names, where its command line looks.

    Ray restarts an engine that dies, in its old place; all else that dies ends the run.
    """
    trainer = ray.remote(ScheduledTrainer)
    engine = ray.remote(max_restarts=-1)(VersionedRollout)
    with (
        mock.patch.object(ppo_actor, "PolicyModelActor", ray.remote(num_gpus=1)(PolicyActor)),
        mock.patch.object(ppo_trainer, "PPOTrainer", trainer),
        mock.patch.object(ppo_trainer_async, "PPOTrainerAsync", trainer),
        mock.patch.object(vllm_engine, "RolloutRayActor", engine),
    ):
        yield


def start_ray_on_cpu(flags: dict[str, Any]) -> None:
    """OpenRLHF starts Ray itself unless it runs; on a CPU its workers need our patches first.

    Args:
        flags: every flag by its dotted name.
    """
    runtime_env = {
        "worker_process_setup_hook": "vespo_openrlhf.cpu.install",
        "env_vars": cpu_settings.environment(),
    }
    if "RAY_ADDRESS" in os.environ:
        ray.init(runtime_env=runtime_env)
        return
    gpus = cpu_settings.logical_gpus(flags)
    # Every placement bundle wants a CPU of its own, and Ray's own actors some more; they are
    # logical too, and a small machine must not wait for cores it does not have.
    ray.init(
        num_gpus=gpus,
        num_cpus=max(os.cpu_count() or 1, gpus + 4),
        include_dashboard=False,
        runtime_env=runtime_env,
    )
