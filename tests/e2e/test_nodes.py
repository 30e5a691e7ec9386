"""Three Ray nodes: the trainer beside the run folder, the engines on nodes of their own, of which
one is lost in mid-run and joins again. The reward takes its time until then, so that the run is
not over before."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from vespo_openrlhf.chaos import reward_server
from vespo_openrlhf.quickstart.local_ray import LocalCluster, LocalNode, free_port

ROWS, EPOCHS = 128, 2
BOUND = 8
PER_SECOND = 4  # at which the data lasts longer than WAIT_S
WAIT_S = 240


def titles(processes: list[psutil.Process]) -> str:
    """Ray names its workers by the class of their actor, and by its method while they work."""
    found = []
    for process in processes:
        try:
            found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return "\n".join(found)


@pytest.fixture(scope="module")
def story(
    command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """A rollout node is killed and comes back; what each node ran is asked before."""
    folder = tmp_path_factory.mktemp("nodes")
    log = folder / "log"

    def text() -> str:
        return log.read_text(errors="replace")

    def wait_until(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert run.poll() is None, text()[-6000:]
            assert time.monotonic() < deadline, f"{what}\n{text()[-6000:]}"
            time.sleep(0.2)

    def step() -> int:
        path = folder / "metrics.jsonl"
        return path.read_text().count("\n") if path.exists() else 0

    def rollout_node() -> LocalNode:
        return cluster.add_node(labels={"group": "rollout"})

    port, release = free_port(), folder / "release"
    # The policy takes the head's only CPU: what does not say where it belongs goes elsewhere.
    with LocalCluster(folder / "ray.log", 1, 1, labels={"group": "trainer"}) as cluster:
        reward = [sys.executable, "-m", reward_server.__name__, str(port), str(PER_SECOND)]
        subprocess.Popen([*reward, str(release)], env=cluster.environment)  # ends with it
        nodes = [rollout_node(), rollout_node()]
        arguments = command(
            folder,
            nodes__rollout="group=rollout",
            nodes__trainer="group=trainer",
            vllm__num_engines=2,
            train__async_enable=True,
            train__partial_rollout_enable=True,
            lag__max=BOUND,
            lag__kv="keep",
            rollout__batch_size=8,
            reward__remote_url=f"http://127.0.0.1:{port}",
            data__max_samples=ROWS,
            train__num_episodes=EPOCHS,
        )
        environment = {**cluster.environment, "RAY_ADDRESS": cluster.address}
        with open(log, "wb") as output:
            run = subprocess.Popen(arguments, env=environment, stdout=output, stderr=output)
        wait_until(lambda: step() >= 2, "batches on three nodes")
        on_nodes = [titles(node.processes()) for node in nodes]
        nodes[1].kill()
        killed_at = step()
        wait_until(lambda: step() > killed_at, "a batch of the engine that is left")
        rollout_node()
        wait_until(lambda: "is back as" in text(), "the engine's return")
        returned_at = step()
        wait_until(lambda: step() > returned_at, "a batch after its return")
        release.touch()
        assert run.wait(WAIT_S) == 0, text()[-6000:]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").open()]
    return {
        "folder": folder,
        "log": text(),
        "samples": samples,
        "on_nodes": on_nodes,
    }


def test_engines_and_trainer_are_on_nodes_of_their_own(story: dict[str, Any]) -> None:
    for running in story["on_nodes"]:
        assert "EngineCore" in running
        assert "PolicyActor" not in running
        assert "ScheduledTrainer" not in running


def test_every_prompt_is_trained_once_an_epoch(story: dict[str, Any]) -> None:
    drawn = {(epoch, row) for epoch in range(EPOCHS) for row in range(ROWS)}
    assert Counter((group["epoch"], group["row"]) for group in story["samples"]) == Counter(drawn)
    account = json.loads((story["folder"] / "prompts.json").read_text())
    assert [epoch["trained"] for epoch in account] == [ROWS] * EPOCHS
    for epoch in account:
        assert not any(epoch[name] for name in ("undrawn", "filtered", "abandoned", "outstanding"))


def test_the_bound_holds(story: dict[str, Any]) -> None:
    for group in story["samples"]:
        oldest = min(version for spans in group["spans"] for version, _ in spans)
        assert 0 <= group["update"] - oldest <= BOUND


def test_the_node_that_joined_again_samples(story: dict[str, Any]) -> None:
    assert re.search(r"[1-9]\d* groups are sent again", story["log"])
    (back,) = {group["engine"] for group in story["samples"]} - {"engine-0", "engine-1"}
    assert back in ("engine-0.1", "engine-1.1")
