"""What several of these tests need."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def run_on_deepspeed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Runs a script of this folder as DeepSpeed's ranks, on its CPU accelerator; gives rank 0's
    output. The imports, which take longest, are made once, by the process that the ranks are forks
    of."""
    if torch.cuda.is_available():
        pytest.skip("the scripts ask for DeepSpeed's CPU accelerator")
    parent = subprocess.Popen(
        [sys.executable, str(HERE / "deepspeed_ranks.py")],
        env=os.environ | {"VESPO_CPU": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdin
    assert parent.stdout

    def run(script: str, *arguments: object, ranks: int = 1) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        every = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        logs = tmp_path_factory.mktemp("ranks")
        task = {"script": str(HERE / script), "arguments": [*map(str, arguments)]}
        task |= {"ranks": ranks, "environment": every, "logs": str(logs)}
        print(json.dumps(task), file=parent.stdin, flush=True)
        answer = next((line for line in parent.stdout if line.startswith("ENDED ")), None)
        assert answer, "the process that the ranks are forks of has ended"
        codes = json.loads(answer.removeprefix("ENDED "))
        failed = [rank for rank, code in enumerate(codes) if code]
        assert not failed, (logs / f"{failed[0]}.err").read_text()[-3000:]
        return (logs / "0.out").read_text()

    yield run
    for process in (*psutil.Process(parent.pid).children(recursive=True), parent):
        process.kill()
    parent.wait()
