"""The head under the real DeepSpeed, on two ranks: trained weights are those of OpenRLHF's way."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent / "deepspeed_head.py"
RANKS = 2


def test_every_stage_trains_the_same_weights() -> None:
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
    (line,) = (line for line in outputs[0].splitlines() if line.startswith("COMPARED "))
    runs = json.loads(line.removeprefix("COMPARED "))
    assert {(run["stage"], run["tied"]) for run in runs} == {
        (stage, tied) for stage in range(4) for tied in (False, True)
    }
    for run in runs:
        assert run["weights"] < 1e-4, run
        assert run["log_probs"] < 1e-3, run
    for tied in (False, True):  # and every stage the same, or a gradient was not shared
        norms = [run["norm"] for run in runs if run["tied"] is tied]
        assert max(norms) - min(norms) < 1e-3
