"""Where Ray puts the parts of a run, on a cluster of two real raylets on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from vespo_openrlhf.bridge import placement

BUNDLE = {"GPU": 1, "CPU": 1}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """The head, which is this process's node, has no CPU to offer; the other has."""
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=0, num_gpus=1, labels={"group": "head"}, include_dashboard=False)
        ray.init(address=cluster.address, log_to_driver=False)
        cluster.add_node(num_cpus=4, num_gpus=2, labels={"group": "rollout"})
        cluster.wait_for_nodes()
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def probe() -> type:
    """An actor's class, made here so that Ray sends it by value: nothing is imported as `tests`."""

    class Probe:
        def node(self) -> str:
            return ray.get_runtime_context().get_node_id()

    return Probe


def choose(trainer: str = "", rollout: str = "") -> None:
    names = {"nodes.trainer": trainer, "nodes.rollout": rollout}
    placement.choose({name: [f"group={group}"] * bool(group) for name, group in names.items()})


@pytest.fixture(autouse=True)
def chosen() -> Iterator[None]:
    yield
    choose()


def group_of(placed: Any) -> list[str]:
    """The label `group` of the node of each bundle."""
    labels = {node["NodeID"]: node["Labels"]["group"] for node in ray.nodes()}
    table = ray.util.placement_group_table(placed)
    return [labels[node] for node in table["bundles_to_node_id"].values()]


def make(role: str, bundles: list[dict[str, float]]) -> Any:
    return placement._placement_group(ray.util.placement_group, role, bundles)


@pytest.mark.usefixtures("cluster")
def test_an_actor_of_the_trainer_is_on_the_node_of_who_makes_it() -> None:
    pinned = placement.OnThisNode(ray.remote(num_cpus=0)(probe()))
    here = ray.get_runtime_context().get_node_id()
    for _ in range(3):
        assert ray.get(pinned.remote().node.remote(), timeout=60) == here
    # What makes no such demand goes where there is a CPU.
    assert ray.get(ray.remote(probe()).remote().node.remote(), timeout=60) != here


@pytest.mark.usefixtures("cluster")
def test_bundles_go_to_the_nodes_of_their_label() -> None:
    choose(rollout="rollout")
    placed = make("rollout", [BUNDLE])
    assert group_of(placed) == ["rollout"]
    ray.util.remove_placement_group(placed)


def test_what_is_waited_for_is_said(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(placement, "_WAIT_SECONDS", 0.2)
    choose(trainer="trainer")
    placed: list[Any] = []
    waiting = threading.Thread(target=lambda: placed.append(make("trainer", [BUNDLE])))
    waiting.start()
    said = ""
    while "[vespo]" not in said:
        assert waiting.is_alive()
        said += capfd.readouterr().out
    assert "waiting for 1 free GPUs for the trainer on nodes with group=trainer" in said
    assert "(--nodes.trainer)" in said
    assert "2 GPUs, group=rollout" in said
    cluster.add_node(num_cpus=1, num_gpus=1, labels={"group": "trainer"})
    waiting.join(60)
    assert group_of(placed[0]) == ["trainer"]
