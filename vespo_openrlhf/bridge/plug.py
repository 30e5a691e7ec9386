"""Puts our classes where OpenRLHF's command line is about to look for its own."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import ray
from openrlhf.trainer import ppo_trainer, ppo_trainer_async
from openrlhf.trainer import ray as trainer_ray
from openrlhf.trainer.ray import launcher, ppo_actor, ppo_critic, vllm_engine
from vllm.config import SchedulerConfig

from vespo_openrlhf import cpu
from vespo_openrlhf.bridge import placement
from vespo_openrlhf.bridge.actor import CriticActor, PolicyActor, ReferenceActor
from vespo_openrlhf.bridge.engine import VersionedRollout
from vespo_openrlhf.bridge.offline.trainer import OfflineTrainer
from vespo_openrlhf.bridge.roles import gpus, logical_gpus, teacher_model
from vespo_openrlhf.bridge.rules.moe import replays
from vespo_openrlhf.bridge.trainer import ScheduledTrainer
from vespo_openrlhf.cpu import build_locks
from vespo_openrlhf.replaced import replaced
from vespo_openrlhf.reward import options as reward_options

# At a time per engine. Each group in flight is one, and Ray's 1,000 would leave none for an update
# of the weights, which is what lets groups end.
_CALLS = 2**16
# What OpenRLHF's flags cannot say to vLLM. Statistics are kept per token and request, for loggers
# that OpenRLHF's engines do not have.
_ARGUMENTS = {
    "logprobs_mode": "processed_logprobs",
    "max_logprobs": 1,
    "disable_log_stats": True,
}


class RayStart:
    """`ray.init` as OpenRLHF calls it, with what a run of ours needs in every process of the job.

    Args:
        upstream: the true `ray.init`.
    """

    def __init__(self, upstream: Callable[..., Any]) -> None:
        self._upstream = upstream
        self._flags: dict[str, Any] | None = None

    def on_cpu(self, flags: dict[str, Any]) -> None:
        """Start it for the CPU stack: workers with our patches, GPUs that are logical.

        Args:
            flags: every flag by its dotted name.
        """
        self._flags = flags

    def __call__(self, *args: Any, runtime_env: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """The reward's options go into the environment: the reward runs wherever the engines do,
        and a node that is already up knows nothing of this process's environment."""
        runtime_env = dict(runtime_env or {})
        variables = dict(runtime_env.get("env_vars", {}))
        if reward_options.VARIABLE in os.environ:
            variables[reward_options.VARIABLE] = os.environ[reward_options.VARIABLE]
        if self._flags is not None:
            for lock in build_locks.remove_stale():
                message = f"removed {lock}, left by a run that was killed while it compiled"
                print(f"[vespo] {message}", flush=True)
            runtime_env["worker_process_setup_hook"] = "vespo_openrlhf.cpu.install"
            variables |= cpu.environment()
            if "RAY_ADDRESS" not in os.environ:  # a cluster that is up has its own resources
                kwargs |= _logical_resources(self._flags)
        # A submitted job may set the same variables, which Ray refuses as a conflict. It is none:
        # the job's are this process's, so every value here was made from them.
        os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
        return self._upstream(*args, runtime_env={**runtime_env, "env_vars": variables}, **kwargs)


class Engines:
    """The engines' class, as OpenRLHF makes actors of it, with what its flags cannot say.

    OpenRLHF sets no `max_num_seqs`, and vLLM then decodes as many sequences at a time as its table
    of devices has for it, 128 as a rule; the rest of those in flight waits within the engine. And
    only with its own correction does it ask for log-probs of the policy that really samples, which
    every run's metrics need.

    Args:
        remote_class: a Ray actor class.
    """

    def __init__(self, remote_class: Any) -> None:
        self._remote_class = remote_class
        self.max_num_seqs: int | None = None
        self.tell_experts = False
        self.wanted = True

    def create(self, upstream: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """OpenRLHF's `create_vllm_engines`, where any are wanted."""
        return upstream(*args, **kwargs) if self.wanted else None

    def options(self, **options: Any) -> Any:
        """As the class's own."""
        made = self._remote_class.options(**options)
        arguments: dict[str, Any] = {"max_num_seqs": self.max_num_seqs} | _ARGUMENTS
        if self.tell_experts:
            arguments["enable_return_routed_experts"] = True
        if (self.max_num_seqs or 0) > SchedulerConfig.DEFAULT_MAX_NUM_BATCHED_TOKENS:
            # Or vLLM does not start: a step must have a token for each.
            arguments["max_num_batched_tokens"] = self.max_num_seqs

        def remote(**of_openrlhf: Any) -> Any:
            return made.remote(**of_openrlhf | arguments)

        return SimpleNamespace(remote=remote)


class Trainers:
    """The trainer's class, as OpenRLHF makes an actor of it: which one is known with the flags.

    It works on the node of the command line, and asks for no CPU.
    """

    def __init__(self) -> None:
        self.kind: type = ScheduledTrainer

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """As the class's own."""
        return placement.OnThisNode(ray.remote(num_cpus=0)(self.kind)).remote(*args, **kwargs)


@dataclass(frozen=True)
class Plugs:
    """What is in place before the flags are parsed, and depends on them."""

    start_ray: RayStart
    engines: Engines
    trainers: Trainers

    def take(self, flags: dict[str, Any]) -> None:
        """Every flag by its dotted name; before Ray starts. Edits those by which OpenRLHF would
        make other models than the run needs."""
        self.engines.max_num_seqs = flags["rollout.in_flight_per_engine"]
        self.engines.tell_experts = replays(flags)
        placement.choose(flags)
        if cpu.is_active():
            self.start_ray.on_cpu(flags)
        if teacher_model(flags):
            flags["algo.kl.init_coef"] = 1.0  # or there is no reference model; no KL is made of it
        if flags["offline.data"]:
            self.trainers.kind = OfflineTrainer
            if not flags["vllm.num_engines"]:
                self.engines.wanted = False
                # Without a number OpenRLHF packs no samples, and colocated it must be this one.
                flags |= {"vllm.num_engines": gpus(flags), "vllm.tensor_parallel_size": 1}


def _logical_resources(flags: dict[str, Any]) -> dict[str, Any]:
    """Every placement bundle wants a CPU of its own, and Ray's own actors some more; they are
    logical too, and a small machine must not wait for cores it does not have."""
    gpus = logical_gpus(flags)
    cpus = max(os.cpu_count() or 1, gpus + 4)
    return {"num_gpus": gpus, "num_cpus": cpus, "include_dashboard": False}


@contextlib.contextmanager
def ray_in_place() -> Iterator[RayStart]:
    """`ray.init`, which OpenRLHF calls unless Ray runs, is what this yields."""
    start_ray = RayStart(ray.init)
    with replaced(ray, init=start_ray):
        yield start_ray


@contextlib.contextmanager
def in_place() -> Iterator[Plugs]:
    """Our actors, trainer and engines under OpenRLHF's names, where its command line looks, and its
    start of Ray.

    Ray restarts an engine that dies, in its old place; all else that dies ends the run.
    """
    trainers = Trainers()
    engines = Engines(ray.remote(max_restarts=-1, max_concurrency=_CALLS)(VersionedRollout))
    create = functools.partial(engines.create, trainer_ray.create_vllm_engines)
    with (
        replaced(ppo_actor, PolicyModelActor=ray.remote(num_gpus=1)(PolicyActor)),
        replaced(launcher, ReferenceModelActor=ray.remote(num_gpus=1)(ReferenceActor)),
        replaced(ppo_critic, CriticModelActor=ray.remote(num_gpus=1)(CriticActor)),
        replaced(ppo_trainer, PPOTrainer=trainers),
        replaced(ppo_trainer_async, PPOTrainerAsync=trainers),
        replaced(vllm_engine, RolloutRayActor=engines),
        replaced(trainer_ray, create_vllm_engines=create),
        placement.in_place(),
        ray_in_place() as start_ray,
    ):
        yield Plugs(start_ray, engines, trainers)
