"""Rules on GPUs: enough of them, and placement groups that can be placed."""

from __future__ import annotations

import http.client
import json
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vespo_openrlhf.bridge.roles import colocated, gpus, logical_gpus
from vespo_openrlhf.check.findings import Finding, error, warning

_TIMEOUT_S = 10
_MOST_NODES = 10_000  # Ray's own maximum; it lists 100 unless asked, the dead ones too


@dataclass(frozen=True)
class Cluster:
    """GPUs of each node, and where that is known from."""

    gpus: tuple[int, ...]
    source: str

    @classmethod
    def stated(cls, nodes: int, gpus_per_node: int) -> Cluster:
        """As the user says.

        Raises:
            ValueError: there is nothing to run on.
        """
        if nodes < 1 or gpus_per_node < 1:
            raise ValueError("--nodes and --gpus-per-node are at least 1")
        return cls((gpus_per_node,) * nodes, "as stated")

    @classmethod
    def running(cls, address: str) -> Cluster:
        """Ask the dashboard of a running Ray cluster, `http://HOST:8265`.

        Raises:
            ValueError: it does not answer, or has no node.
        """
        url = f"{address.rstrip('/')}/api/v0/nodes?detail=true&limit={_MOST_NODES}"
        try:
            with urllib.request.urlopen(url, timeout=_TIMEOUT_S) as answer:
                nodes = json.load(answer)["data"]["result"]["result"]
        except (OSError, http.client.HTTPException, KeyError, TypeError, ValueError) as failure:
            raise ValueError(
                f"no Ray cluster answers at {address} ({failure}): start it (scripts/ray-node.sh), "
                "or state what it will have with --nodes and --gpus-per-node"
            ) from failure
        alive = [node["resources_total"] for node in nodes if node["state"] == "ALIVE"]
        if not alive:
            raise ValueError(
                f"the Ray cluster at {address} has no node yet: wait until `ray status` lists them"
            )
        return cls(tuple(int(node.get("GPU", 0)) for node in alive), f"running at {address}")

    @property
    def total(self) -> int:
        return sum(self.gpus)

    def __str__(self) -> str:
        shape = " + ".join(map(str, self.gpus)) if len(set(self.gpus)) > 1 else ""
        nodes = f"{len(self.gpus)} x {self.gpus[0]}" if self.gpus and not shape else shape
        return f"{nodes or 0} GPUs, {self.source}"


@dataclass(frozen=True)
class Machines:
    """Where the recipe is to run.

    Attributes:
        nodes, gpus_per_node: as stated; None: a running cluster's, else the recipe's own.
        address: dashboard of a running cluster, `http://HOST:8265`.
        gpu_memory: of one GPU, GiB.
        node_memory: of one node, GiB; None: not known.
    """

    nodes: int | None = None
    gpus_per_node: int | None = None
    address: str | None = None
    gpu_memory: float = 79.0
    node_memory: float | None = None

    def cluster(self, flags: dict[str, Any]) -> Cluster:
        """Raises ValueError where a running cluster was named and does not answer."""
        nodes, per_node = needed_nodes(flags)
        if self.nodes is not None or self.gpus_per_node is not None:
            return Cluster.stated(
                nodes if self.nodes is None else self.nodes,
                per_node if self.gpus_per_node is None else self.gpus_per_node,
            )
        if self.address is not None:
            return Cluster.running(self.address)
        return Cluster((per_node,) * nodes, "what the recipe is written for")


def needed_nodes(flags: Mapping[str, Any]) -> tuple[int, int]:
    """The (nodes, GPUs per node) a recipe is written for, where nothing else is stated."""
    per_node = flags["actor.num_gpus_per_node"]
    needed = logical_gpus(flags)
    if flags["actor.num_nodes"] == 1 and needed > per_node:
        per_node = min(needed, 8)
    return -(-needed // per_node), per_node


def check_cluster(flags: dict[str, Any], cluster: Cluster) -> Iterator[Finding]:
    """GPUs in number and in shape."""
    yield from _check_engines(flags, cluster)
    needed, trainer = logical_gpus(flags), gpus(flags)
    if needed > cluster.total:
        engines = needed - trainer
        parts = f"{trainer} of the trainer"
        if engines > 0:
            parts += f" + {engines} of the engines and other models"
        yield error(
            f"the run takes {needed} GPUs ({parts}), the cluster has {cluster.total} ({cluster}): "
            "it would wait for its placement group for ever",
            "lower --actor.num_nodes, --actor.num_gpus_per_node or --vllm.num_engines, or put "
            "trainer and engines on the same GPUs with --train.colocate_all --vllm.enable_sleep "
            "--ds.enable_sleep",
        )
    elif needed < cluster.total:
        yield warning(
            f"the run takes {needed} of the cluster's {cluster.total} GPUs",
            "raise --vllm.num_engines or --actor.num_nodes, or rent less",
        )
    most = max(cluster.gpus, default=0)
    if flags["actor.num_gpus_per_node"] > most:
        yield error(
            f"--actor.num_gpus_per_node {flags['actor.num_gpus_per_node']}, but no node has more "
            f"than {most}",
            f"set --actor.num_gpus_per_node {most} and --actor.num_nodes "
            f"{-(-trainer // max(most, 1))}",
        )


def _check_engines(flags: Mapping[str, Any], cluster: Cluster) -> Iterator[Finding]:
    if flags["vllm.tensor_parallel_size"] > max(cluster.gpus, default=0):
        yield warning(
            f"an engine of {flags['vllm.tensor_parallel_size']} GPUs (--vllm.tensor_parallel_size) "
            "spans nodes, and each token waits for the network",
            "set it to at most the GPUs of a node",
        )
    if colocated(flags) and not (flags["vllm.enable_sleep"] and flags["ds.enable_sleep"]):
        yield warning(
            "trainer and engines share GPUs, and one of them keeps its memory while the other "
            "works",
            "add --vllm.enable_sleep --ds.enable_sleep",
        )
