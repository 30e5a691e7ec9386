"""A server that speaks OpenAI's protocol, and the command line against it.

The server is a stand-in: it shows what the harness does around a model, deterministically and in
no time. The real vLLM, offline and as a server, is in tests/e2e/test_eval.py.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


class Server(ThreadingHTTPServer):
    """Answers `2+3` with the sum, or off by one, as the request's seed decides."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.delay_s = 0.0
        self.failures: list[int] = []  # statuses for the next requests
        # What to answer a request instead: its body's bytes, or a status and them; None as usual.
        self.instead: Callable[[dict], bytes | tuple[int, bytes] | None] = lambda body: None
        self.content_type = "application/json"
        self.token_strs: list[str] | None = None  # what vLLM's /tokenize says of a chat
        self.requests: list[dict] = []
        self.authorization: set[str | None] = set()
        self.most_at_once = 0
        self.at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: the second would wait 40 ms for an answer
    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._reply(200, {"object": "list", "data": [{"id": "adder", "object": "model"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.authorization.add(self.headers["Authorization"])
        if self.path == "/tokenize":
            tokens = self.server.token_strs
            self._reply(404 if tokens is None else 200, {"token_strs": tokens})
            return
        with self.server.lock:
            self.server.requests.append(body)
            self.server.at_once += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.at_once)
            status = self.server.failures.pop(0) if self.server.failures else 200
        time.sleep(self.server.delay_s)
        with self.server.lock:
            self.server.at_once -= 1
        if status != 200:
            self._reply(status, {"error": {"message": f"status {status}"}})
            return
        if (instead := self.server.instead(body)) is not None:
            status, content = instead if isinstance(instead, tuple) else (200, instead)
            self._send(status, content, self.server.content_type)
            return
        prompt = body["prompt"] if "prompt" in body else body["messages"][-1]["content"]
        a, b = map(int, re.findall(r"(\d+)\+(\d+)", prompt)[0])
        off = (
            hashlib.sha256(str(body["seed"]).encode()).digest()[0] % 2 if body["temperature"] else 0
        )
        text = f"{a} and {b} make \\boxed{{{a + b + off}}}"
        choice = {"index": 0, "finish_reason": "stop"}
        choice |= (
            {"text": text}
            if "prompt" in body
            else {"message": {"role": "assistant", "content": text}}
        )
        usage = {"prompt_tokens": 3, "completion_tokens": len(text), "total_tokens": 9}
        self._reply(
            200, {"id": "x", "object": "x", "model": "adder", "choices": [choice], "usage": usage}
        )

    def _reply(self, status: int, content: dict) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """`sums.jsonl`: forty sums with ids of their own."""
    path = tmp_path / "sums.jsonl"
    rows = [{"id": f"sum-{i}", "problem": f"{i}+{i + 1}", "answer": 2 * i + 1} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def command(server: Server, problems: Path) -> Callable[..., list[str]]:
    """`vespo eval run` on the sums, at the stand-in; more options as arguments."""

    def arguments(out: Path, *more: str) -> list[str]:
        base = ["run", "--endpoint", server.url, "--model", "adder", "--out", str(out)]
        return [*base, "--benchmarks", f"{problems}:4", *more]

    return arguments


@pytest.fixture
def subprocess_run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """`vespo eval ...` in a process of its own."""

    def run(arguments: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "vespo_openrlhf.eval", *arguments],
            capture_output=True,
            text=True,
            **options,
        )

    return run


@pytest.fixture
def lines() -> Callable[[Path], list[str]]:
    """The records of a benchmark's folder, sorted."""

    def read(folder: Path) -> list[str]:
        return sorted((folder / "generations.jsonl").read_text().splitlines())

    return read
