"""Weights that do not arrive as they were sent."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

FORGETFUL = Path(__file__).parent / "forgetful"
TIMEOUT_S = 300


@pytest.mark.parametrize(
    ("verify", "told"),
    [
        (
            False,
            (
                "engine-0 does not sample from the policy that is trained",
                "the weights of version 4",  # the first that were sent
                "--vllm.weight_tolerance",
            ),
        ),
        (
            True,
            (
                "error: the engine holds other weights than one would that is started from",
                "model.layers.0.mlp.gate_up_proj.weight (",
            ),
        ),
    ],
    ids=["sampled", "verified"],
)
def test_an_engine_that_part_of_an_update_does_not_reach_stops_the_run(
    verify: bool, told: tuple[str, ...], command: Callable[..., list[str]], tmp_path: Path
) -> None:
    path = os.pathsep.join(filter(None, [str(FORGETFUL), os.environ.get("PYTHONPATH")]))
    finished = subprocess.run(
        command(tmp_path, data__max_samples=64, vllm__verify_weights=verify),
        env={**os.environ, "PYTHONPATH": path, "VESPO_TEST_FORGETS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 1, finished.stdout[-6000:]
    for text in told:
        assert text in finished.stdout
    assert (tmp_path / "model" / "model.safetensors").is_file()  # what was trained
