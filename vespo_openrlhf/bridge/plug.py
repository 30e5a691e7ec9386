"""Puts our classes where OpenRLHF's command line is about to look for its own."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import ray
from openrlhf.trainer import ppo_trainer, ppo_trainer_async
from openrlhf.trainer.ray import ppo_actor, vllm_engine

from vespo_openrlhf.bridge import placement
from vespo_openrlhf.bridge.actor import PolicyActor
from vespo_openrlhf.bridge.engine import VersionedRollout
from vespo_openrlhf.bridge.trainer import ScheduledTrainer
from vespo_openrlhf.cpu import build_locks
from vespo_openrlhf.cpu import settings as cpu_settings
from vespo_openrlhf.reward import options as reward_options


@contextlib.contextmanager
def in_place() -> Iterator[None]:
    """Our policy actor, trainer and engines under OpenRLHF's names, where its command line looks.

    Ray restarts an engine that dies, in its old place; all else that dies ends the run. And
    `ray.init`, which OpenRLHF calls unless Ray runs, tells every Ray process the reward's options.
    """
    trainer = placement.OnThisNode(ray.remote(num_cpus=0)(ScheduledTrainer))
    engine = ray.remote(max_restarts=-1)(VersionedRollout)
    with (
        mock.patch.object(ppo_actor, "PolicyModelActor", ray.remote(num_gpus=1)(PolicyActor)),
        mock.patch.object(ppo_trainer, "PPOTrainer", trainer),
        mock.patch.object(ppo_trainer_async, "PPOTrainerAsync", trainer),
        mock.patch.object(vllm_engine, "RolloutRayActor", engine),
        placement.in_place(),
        mock.patch.object(ray, "init", functools.partial(_init_ray, ray.init)),
    ):
        yield


def _init_ray(
    upstream: Callable[..., Any],
    *args: Any,
    runtime_env: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Any:
    """`ray.init` with the reward's options in the environment of every process of the job.

    The reward runs wherever the engines do, and a node that is already up knows nothing of this
    process's environment.
    """
    runtime_env = dict(runtime_env or {})
    variables = dict(runtime_env.get("env_vars", {}))
    if reward_options.VARIABLE in os.environ:
        variables[reward_options.VARIABLE] = os.environ[reward_options.VARIABLE]
    # A submitted job may set the same variables, which Ray refuses as a conflict. It is none:
    # the job's are this process's, so every value here was made from them.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    return upstream(*args, runtime_env={**runtime_env, "env_vars": variables}, **kwargs)


def start_ray_on_cpu(flags: dict[str, Any]) -> None:
    """OpenRLHF starts Ray itself unless it runs; on a CPU its workers need our patches first.

    Args:
        flags: every flag by its dotted name.
    """
    for lock in build_locks.remove_stale():
        print(
            f"[vespo] removed {lock}, left by a run that was killed while it compiled", flush=True
        )
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
