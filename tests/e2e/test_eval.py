"""`vespo eval` on real vLLM engines: in this process, on Ray, and behind vLLM's own server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from transformers import AutoTokenizer

from vespo_openrlhf import cpu
from vespo_openrlhf.embedded.build import build
from vespo_openrlhf.embedded.options import BuildOptions, WarmStart
from vespo_openrlhf.eval.engines.thinking import opens_thinking

TIMEOUT_S = 240
pytestmark = pytest.mark.skipif(not cpu.is_active(), reason="compares float32 engines bit by bit")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedded model, warmed up just enough to be right now and then."""
    out = tmp_path_factory.mktemp("embedded")
    warm_start = WarmStart(steps=400, forget_share=0.3)
    build(
        out,
        BuildOptions(train_problems=64, heldout_problems=64, warm_start=warm_start),
        progress=False,
    )
    return out


def command(built: Path, out: Path, *more: str) -> list[str]:
    arguments = ["--model", str(built / "model"), "--out", str(out), "--max-tokens", "40"]
    arguments += ["--benchmarks", f"{built / 'heldout.jsonl'}:8"]
    # What the engines, Ray's workers and the server must all take alike.
    arguments += ["--top-k", "12", "--min-p", "0.001", "--repetition-penalty", "1.001"]
    arguments += ["--presence-penalty", "0.001", "--frequency-penalty", "0.001"]
    return [sys.executable, "-m", "vespo_openrlhf.eval", "run", *arguments, *more]


def evaluate(built: Path, out: Path, *more: str) -> Path:
    finished = subprocess.run(
        command(built, out, *more), capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert finished.returncode == 0, finished.stderr[-3000:]
    return out


def records(out: Path, benchmark: str) -> list[str]:
    return sorted((out / benchmark / "generations.jsonl").read_text().splitlines())


def verdicts(lines: list[str]) -> dict[str, tuple[bool, str | None]]:
    return {r["id"]: (r["correct"], r["extracted"]) for r in map(json.loads, lines)}


@pytest.fixture(scope="module")
def offline(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an uninterrupted run on vLLM in its process, sampled and greedy."""
    return evaluate(built, tmp_path_factory.mktemp("offline"), "--also-greedy")


def test_the_model_is_evaluated_for_real(offline: Path) -> None:
    summary = json.loads((offline / "summary.json").read_text())["benchmarks"]["heldout"]
    assert (summary["problems"], summary["repeats"]) == (64, 8)
    assert 0.02 < summary["avg@k"] < 0.98
    assert summary["avg@k"] < summary["pass@k"]["8"]
    assert summary["extraction_rate"] > 0.5
    assert 20 < summary["length"]["mean"] <= 40
    assert summary["tokens_per_second"] > 0


def test_killed_while_generating_and_resumed_on_ray_the_records_are_the_same(
    built: Path, offline: Path, tmp_path: Path
) -> None:
    """The first records are there when it is killed, so most of them are the engines' on Ray. These
    read some prompts in two parts, which takes nothing from a response's seed."""
    out = tmp_path / "killed"
    flags = ["--also-greedy", "--engine-options", '{"max_num_batched_tokens": 1000}']
    path = out / "heldout" / "generations.jsonl"
    running = subprocess.Popen(
        command(built, out, *flags), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + TIMEOUT_S
    while not (path.exists() and path.stat().st_size):
        assert running.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    running.wait()
    with open(path, "ab") as file:
        file.write(b'{"benchmark": "heldout", "id"')  # as a kill within a write leaves it
    before = path.read_bytes().count(b"\n")
    evaluate(built, out, *flags, "--engines", "2")
    assert before < 64 * 8 / 2
    for name in ("heldout", "heldout-greedy"):
        assert records(out, name) == records(offline, name)


@pytest.fixture(scope="module")
def endpoint(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own server on loopback; its chat template opens the thinking where it is asked to."""
    template = tmp_path_factory.mktemp("template") / "chat.jinja"
    own = AutoTokenizer.from_pretrained(built / "model").chat_template
    template.write_text(
        own + "{%- if opens is defined and opens -%}{{ '<think>\\n' }}{%- endif -%}"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = ["--model", str(built / "model"), "--host", "127.0.0.1", "--port", str(port)]
    arguments += ["--dtype", "float32", "--enforce-eager", "--chat-template", str(template)]
    server = subprocess.Popen(
        [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments],
        env=os.environ | cpu.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while True:
            assert server.poll() is None
            assert time.monotonic() < deadline
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        try:
            server.wait(timeout=30)
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)


def test_vllms_own_server_gives_the_verdicts_of_the_offline_engine(
    built: Path, offline: Path, endpoint: str, tmp_path: Path
) -> None:
    out = tmp_path / "endpoint"
    arguments = ["--endpoint", endpoint, "--temperature", "0"]
    arguments += ["--benchmarks", f"{built / 'heldout.jsonl'}:1"]
    evaluate(built, out, *arguments)
    theirs, ours = verdicts(records(out, "heldout")), verdicts(records(offline, "heldout-greedy"))
    assert len(theirs) == 64
    assert theirs == ours
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["endpoint"] == f"{endpoint}/v1"


def test_vllms_own_server_says_whether_its_template_opens_the_thinking(
    built: Path, endpoint: str
) -> None:
    async def ask(options: dict[str, object]) -> bool | None:
        async with openai.AsyncOpenAI(base_url=f"{endpoint}/v1", api_key="none") as client:
            return await opens_thinking(client, f"{endpoint}/v1", str(built / "model"), options)

    assert asyncio.run(ask({})) is False
    assert asyncio.run(ask({"opens": True})) is True
