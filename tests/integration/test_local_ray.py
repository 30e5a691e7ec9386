"""The quickstart's Ray cluster: on the CPU stack by force, and where Ray cannot start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vespo_openrlhf.quickstart import local_ray, reaper
from vespo_openrlhf.quickstart.local_ray import LocalCluster

# What an actor on a logical GPU sees of the devices, asked in a cluster of its own.
ON_A_LOGICAL_GPU = """
import ray, torch

@ray.remote(num_gpus=1)
class Actor:
    def devices(self):
        return torch.cuda.device_count()

ray.init(address="auto", log_to_driver=False)
print("DEVICES", ray.get([actor.devices.remote() for actor in [Actor.remote(), Actor.remote()]]))
"""
START_AND_STOP = """
import subprocess, sys
from pathlib import Path
from vespo_openrlhf.quickstart.local_ray import LocalCluster

with LocalCluster(Path(sys.argv[1])) as cluster:
    subprocess.run([sys.executable, "-c", sys.argv[2]], env=cluster.environment, check=True)
    mark = cluster.environment[sys.argv[3]]
print("MARK", mark)
"""


def test_a_forced_cpu_cluster_has_logical_gpus_no_devices_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    log = tmp_path / "ray.log"
    finished = subprocess.run(
        [sys.executable, "-c", START_AND_STOP, str(log), ON_A_LOGICAL_GPU, reaper.VARIABLE],
        env=os.environ | {"VESPO_CPU": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr[-3000:] + log.read_text()[-3000:]
    lines = dict(line.split(maxsplit=1) for line in finished.stdout.splitlines())
    assert lines["DEVICES"] == "[0, 0]"
    assert reaper.marked(lines["MARK"]) == []


def test_a_node_that_does_not_start_is_told_from_one_that_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's dashboard is there and answers for a while, when its node has failed already."""
    monkeypatch.setattr(local_ray, "_ATTEMPTS", 1)
    refused = LocalCluster(tmp_path / "ray.log", environment={"CUDA_VISIBLE_DEVICES": ""})
    with pytest.raises(RuntimeError, match="Attempting to start raylet with 2 GPU"), refused:
        pass


def test_a_cluster_whose_reaper_was_killed_is_ended_all_the_same(tmp_path: Path) -> None:
    with LocalCluster(tmp_path / "ray.log") as started:
        started._reaper.kill()
        started._reaper.wait()
        mark, folder = started.environment[reaper.VARIABLE], Path(started._folder)
        assert reaper.marked(mark)
    assert reaper.marked(mark) == []
    assert not folder.exists()
