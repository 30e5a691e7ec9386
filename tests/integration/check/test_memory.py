"""The estimate of model states against what the real DeepSpeed holds, on two ranks."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from vespo_openrlhf.check.memory import training_states
from vespo_openrlhf.check.model import ModelShape

RANKS = 2
SCRIPT = Path(__file__).parent / "deepspeed_states.py"


@pytest.fixture(scope="module")
def measured() -> list[dict]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            env={
                **os.environ,
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(RANKS),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "VESPO_CPU": "1",
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(RANKS)
    ]
    outputs = [rank.communicate(timeout=600)[0] for rank in ranks]
    assert all(rank.returncode == 0 for rank in ranks), outputs[0][-3000:]
    (line,) = (line for line in outputs[0].splitlines() if line.startswith("MEASURED "))
    return json.loads(line.removeprefix("MEASURED "))


def test_states_are_estimated_within_15_percent(measured: list[dict]) -> None:
    assert len({run["model"] for run in measured}) == 3
    assert {run["zero_stage"] for run in measured} == {0, 2, 3}
    for run in measured:
        shape = ModelShape.from_config(run["config"])
        estimate = training_states(
            shape.parameters,
            zero_stage=run["zero_stage"],
            shards=RANKS,
            dtype=run["dtype"],
            gradient_dtype=run["gradient_dtype"],
        )
        for part, size in run["bytes"].items():
            estimated = vars(estimate)[part]
            print(f"ZeRO-{run['zero_stage']} {run['model']} {part}: {size}, {estimated / size:.4f}")
            assert estimated == pytest.approx(size, rel=0.15), (run["model"], part)
