"""The process that evaluates for the quickstart: what it says of failures, and that it is stopped.

That it evaluates is for tests/e2e/test_quickstart.py to show.
"""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from vespo_openrlhf.quickstart.evaluator import Evaluator


def children() -> set[psutil.Process]:
    """Of this process, in which other tests have left theirs: a verifier, say."""
    return set(psutil.Process().children())


def test_failures_show_the_log_and_the_next_evaluation_is_taken(tmp_path: Path) -> None:
    log, before = tmp_path / "log", children()
    with Evaluator(tmp_path / "evaluator.log") as evaluator:
        wait = evaluator.start(["--no-such-flag"], log)
        with pytest.raises(RuntimeError, match="arguments are required: --out"):
            wait()
        wait = evaluator.start(
            [f"--model={tmp_path / 'none'}", "--benchmarks=embedded", f"--out={tmp_path}"], log
        )
        with pytest.raises(RuntimeError, match=r"none.*"):
            wait()
    assert children() <= before


def test_one_that_dies_fails_the_evaluation(tmp_path: Path) -> None:
    before = children()
    with Evaluator(tmp_path / "evaluator.log") as evaluator:
        evaluator.prepare()
        (process,) = children() - before
        process.kill()
        wait = evaluator.start([], tmp_path / "log")
        with pytest.raises(RuntimeError, match=r"evaluator\.log"):
            wait()


def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib\n"
        "from vespo_openrlhf.quickstart.evaluator import Evaluator\n"
        "evaluator = Evaluator(pathlib.Path(sys.argv[1]))\n"
        "evaluator.prepare()\n"
        "print(evaluator._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    parent = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "log")], capture_output=True, text=True
    )
    pid = int(parent.stdout)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=60)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
