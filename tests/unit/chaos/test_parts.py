"""The reward server and the small disk of a chaos run; both are real."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from vespo_openrlhf.chaos import reward_server
from vespo_openrlhf.chaos.disk import SmallDisk
from vespo_openrlhf.quickstart.local_ray import free_port


def test_the_reward_server_answers_as_openrlhf_asks(tmp_path: Path) -> None:
    release, port = tmp_path / "release", free_port()
    release.touch()  # at any pace
    command = [sys.executable, "-m", reward_server.__name__, str(port), "0.001", str(release)]
    body = {"query": ["What?2468", "What?21", "What?x"], "prompts": ["What?"] * 3, "labels": [""]}
    server = subprocess.Popen(command)
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/get_reward", json.dumps(body).encode()
        )
        while True:
            try:
                answer = json.load(urllib.request.urlopen(request, timeout=60))
                break
            except urllib.error.URLError:
                assert server.poll() is None
                time.sleep(0.1)
    finally:
        server.kill()
        server.wait()
    assert answer == {"rewards": [1.0, 0.5, 0.0], "scores": [1.0, 0.5, 0.0], "extra_logs": {}}


def test_the_pace_holds_back_until_it_is_released(tmp_path: Path) -> None:
    pace = reward_server.Pace(1e-6, tmp_path / "release")
    (tmp_path / "release").touch()
    for _ in range(3):
        pace.wait()  # it would be 11 days


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_small_disk_is_filled_and_freed(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "disk", 1)
    try:
        if not disk.mounted:
            pytest.skip("mount is not allowed here")
        disk.fill()
        with pytest.raises(OSError, match="No space left"):
            (disk.folder / "file").write_bytes(b"x" * 5000)
        disk.free()
        (disk.folder / "file").write_bytes(b"x" * 5000)
        again = SmallDisk(disk.folder, 1)  # as after a kill
        assert list(again.folder.iterdir()) == []
        again.close()
    finally:
        disk.close()
    assert not os.path.ismount(tmp_path / "disk")
