"""Weights that do not arrive as they were sent."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

FORGETFUL = Path(__file__).parent / "forgetful"
TIMEOUT_S = 300


def test_an_engine_that_part_of_an_update_does_not_reach_stops_the_run(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    path = os.pathsep.join(filter(None, [str(FORGETFUL), os.environ.get("PYTHONPATH")]))
    finished = subprocess.run(
        command(tmp_path, data__max_samples=64),
        env={**os.environ, "PYTHONPATH": path, "VESPO_TEST_FORGETS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert finished.returncode not in (0, 2), finished.stdout[-6000:]
    assert "engine-0 does not sample from the policy that is trained" in finished.stdout
    assert "the weights of version 4" in finished.stdout  # the first that were sent
    assert "--vllm.weight_tolerance" in finished.stdout
