"""The process that evaluates, with stubs for vLLM and the evaluation; the real ones are in
tests/integration/test_evaluator.py."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from vespo_openrlhf.quickstart import evaluator

STUBS = """
import os, signal, sys, time
from vespo_openrlhf.eval import __main__ as evaluation
from vespo_openrlhf.eval.engines import offline
from vespo_openrlhf.quickstart import evaluator

def main(arguments):
    if arguments[2:]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(os.getpid(), flush=True)
    time.sleep(float(arguments[1]))
    return 3

offline.import_vllm = lambda: os.system("echo a word of welcome")
evaluation.main = main
evaluator.serve()
"""


def begun(log: Path) -> psutil.Process:
    """The evaluation that writes to `log`."""
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return psutil.Process(int(log.read_text()))


@pytest.fixture
def process() -> subprocess.Popen:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", STUBS],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        start_new_session=True,
    )


def test_what_is_said_on_being_imported_is_no_answer(
    process: subprocess.Popen, tmp_path: Path
) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    print(json.dumps([str(tmp_path / "log"), "0"]), file=process.stdin, flush=True)
    assert process.stdout.readline() == "3\n"
    assert "a word of welcome" in process.communicate()[1]
    assert process.returncode == 0


def test_an_evaluation_ends_with_whoever_asked(process: subprocess.Popen, tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert process.stdin is not None
    print(json.dumps([str(log), "600"]), file=process.stdin, flush=True)
    evaluation = begun(log)
    process.stdin.close()  # as the kernel does when the quickstart is killed
    try:
        process.wait(10)
        psutil.wait_procs([evaluation], timeout=10)
        assert not evaluation.is_running() or evaluation.status() == psutil.STATUS_ZOMBIE
    finally:
        process.kill()
        if evaluation.is_running():
            evaluation.kill()


@pytest.mark.parametrize("stubborn", [False, True])
def test_no_evaluation_outlives_the_block(
    stubborn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stub.py").write_text(STUBS)
    monkeypatch.setattr(evaluator, "__name__", "stub")
    monkeypatch.setattr(evaluator, "_REPOSITORY", tmp_path)
    monkeypatch.setattr(evaluator, "_GRACE_S", 1.0, raising=False)
    log = tmp_path / "log"
    with evaluator.Evaluator(tmp_path / "evaluator.log") as started:
        started.start(["600", *["stubborn"] * stubborn], log)
        evaluation = begun(log)
    try:
        psutil.wait_procs([evaluation], timeout=1)  # its files are closed before it is gone
        assert not evaluation.is_running() or evaluation.status() == psutil.STATUS_ZOMBIE
    finally:
        if evaluation.is_running():
            evaluation.kill()
