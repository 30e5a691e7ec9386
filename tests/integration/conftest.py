"""What several of these tests need."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.fixture
def run_on_deepspeed() -> Callable[..., str]:
    """Runs a script of this folder as DeepSpeed's only rank, on its CPU accelerator; its output."""
    if torch.cuda.is_available():
        pytest.skip("the scripts ask for DeepSpeed's CPU accelerator")

    def run(script: str, *arguments: object) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        rank = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        finished = subprocess.run(
            [sys.executable, str(HERE / script), *map(str, arguments)],
            env=os.environ | rank | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            capture_output=True,
            text=True,
            check=False,
        )
        assert finished.returncode == 0, finished.stderr[-3000:]
        return finished.stdout

    return run
