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


@pytest.fixture(scope="session")
def run_on_deepspeed(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs a script of this folder as DeepSpeed's ranks, on its CPU accelerator; gives rank 0's
    output."""
    if torch.cuda.is_available():
        pytest.skip("the scripts ask for DeepSpeed's CPU accelerator")

    def run(script: str, *arguments: object, ranks: int = 1) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        every = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        every |= {"VESPO_CPU": "1", "OMP_NUM_THREADS": "1"}
        logs = tmp_path_factory.mktemp("ranks")
        running = []
        for rank in range(ranks):
            with open(logs / f"{rank}.out", "w") as out, open(logs / f"{rank}.err", "w") as err:
                process = subprocess.Popen(
                    [sys.executable, str(HERE / script), *map(str, arguments)],
                    env=os.environ | every | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stdout=out,
                    stderr=err,
                )
                running.append(process)
        try:
            failed = [rank for rank, process in enumerate(running) if process.wait(timeout=600)]
        finally:
            for process in running:
                process.kill()
        assert not failed, (logs / f"{failed[0]}.err").read_text()[-3000:]
        return (logs / "0.out").read_text()

    return run
