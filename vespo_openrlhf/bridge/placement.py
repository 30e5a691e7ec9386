"""Which Ray node holds what: the trainer beside the run folder, models and engines where asked.

OpenRLHF packs its models and engines onto as few nodes as it can, whichever they are. Node labels
(`ray start --labels group=rollout`) say which; a model of one GPU, which OpenRLHF gives no
placement group, gets one too, so that one rule holds for all.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import ray
from openrlhf.trainer.ray import launcher, vllm_engine
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from vespo_openrlhf.replaced import replaced

_WAIT_SECONDS = 30

#: By role; what the flags of this process's run say.
_labels: dict[str, dict[str, str]] = {"trainer": {}, "rollout": {}}


def choose(flags: Mapping[str, Any]) -> None:
    """Take `--nodes.trainer` and `--nodes.rollout` from parsed flags (dotted names)."""
    for role in _labels:
        _labels[role] = dict(pair.split("=", 1) for pair in flags[f"nodes.{role}"])


class OnThisNode:
    """A remote class whose actors Ray puts on the node of the process that makes them.

    Ray puts an actor anywhere; the trainer reads and writes the run folder, which the node it is
    started on is sure to have. Its class must ask for no CPU: a head node may offer none.
    """

    def __init__(self, remote_class: Any) -> None:
        self._remote_class = remote_class

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        """As the class's own; Ray must be up."""
        here = ray.get_runtime_context().get_node_id()
        strategy = NodeAffinitySchedulingStrategy(here, soft=False)
        return self._remote_class.options(scheduling_strategy=strategy).remote(*args, **kwargs)


@contextlib.contextmanager
def in_place() -> Iterator[None]:
    """OpenRLHF's placement groups, and those of models that get none from it, on chosen nodes."""
    module = importlib.import_module("ray.util.placement_group")  # `ray.util` has a function of it
    make = module.placement_group
    trainer = functools.partial(_placement_group, make, "trainer")
    rollout = functools.partial(_placement_group, make, "rollout")

    class ModelGroup(launcher.RayActorGroup):
        def __init__(
            self, num_nodes: int, num_gpus_per_node: int, model: Any, pg: Any = None, **kwargs: Any
        ) -> None:
            group = pg or trainer([{"GPU": 1, "CPU": 1}] * (num_nodes * num_gpus_per_node))
            super().__init__(num_nodes, num_gpus_per_node, model, pg=group, **kwargs)

    with (
        replaced(module, placement_group=trainer),  # models and engines on the same
        replaced(launcher, RayActorGroup=ModelGroup),
        replaced(vllm_engine, placement_group=rollout),
    ):
        yield


def _placement_group(
    make: Any,
    role: Literal["trainer", "rollout"],
    bundles: Sequence[Mapping[str, float]],
    strategy: str = "PACK",
) -> Any:
    """Ray's `placement_group` on the nodes of `role`; what it waits for is said, not kept."""
    labels = _labels[role]
    selector = [labels] * len(bundles) if labels else None
    group = make(list(bundles), strategy=strategy, bundle_label_selector=selector)
    while not group.wait(_WAIT_SECONDS):
        where = f" on nodes with {_text(labels)} (--nodes.{role})" if labels else ""
        print(
            f"[vespo] waiting for {len(bundles)} free GPUs for the {role}{where}; "
            f"Ray has {'; '.join(map(_describe, ray.nodes()))}",
            flush=True,
        )
    return group


def _describe(node: Mapping[str, Any]) -> str:
    labels = {k: v for k, v in node["Labels"].items() if not k.startswith("ray.io/")}
    gpus = node["Resources"].get("GPU", 0) if node["Alive"] else 0
    state = "" if node["Alive"] else " (lost)"
    return f"{node['NodeManagerAddress']}{state}: {gpus:g} GPUs, {_text(labels) or 'no labels'}"


def _text(labels: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in labels.items())
