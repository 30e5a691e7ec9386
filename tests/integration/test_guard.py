"""The guard before the optimizer step, on DeepSpeed's own engine with and without ZeRO."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
# Stage 0 in float32 is the CPU stack's; the others are what runs on GPUs.
SETUPS = ("0-fp32", "0-bf16", "1-bf16", "2-bf16", "3-bf16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="DeepSpeed's CPU accelerator is asked for")
def test_a_broken_update_is_not_made_whatever_keeps_the_gradients(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    finished = subprocess.run(
        [sys.executable, str(HERE / "deepspeed_guard.py"), str(tmp_path), *SETUPS],
        env=os.environ | rank | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
        capture_output=True,
        text=True,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    lines = [json.loads(line) for line in finished.stdout.splitlines() if line.startswith("{")]
    assert tuple(line["setup"] for line in lines) == SETUPS
    for line in lines:
        *skipped, stopped = line["results"]
        for update in skipped:
            whole = update["broken"] == ""
            assert (update["made"], update["moved"]) == (whole, whole), line
            assert update["finite"], line
        assert "gradient norm of update 5 is not finite" in stopped["error"]
        assert not stopped["moved"], line
    assert len(list(tmp_path.glob("nonfinite_update*_rank0.pt"))) == 3  # of updates 1, 3 and 5
