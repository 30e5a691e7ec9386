"""`python -m vespo_openrlhf.chaos.reward_server PORT PER_SECOND RELEASE`: a reward over HTTP.

It gives the share of even digits, under which an untrained model's samples differ, and so many
verdicts a second, so that a run lasts as long as it shall; any number once the file RELEASE is
there.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Pace:
    """Lets through so many a second, in turn, until a file is there.

    Args:
        per_second: how many.
        release: the file.
    """

    def __init__(self, per_second: float, release: Path) -> None:
        self._interval = 1 / per_second
        self._release = release
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def wait(self) -> None:
        """Until it is this thread's turn."""
        with self._lock:
            self._next = max(self._next + self._interval, time.monotonic())
            due = self._next
        while time.monotonic() < due and not self._release.exists():
            time.sleep(0.1)


def even_digits(response: str) -> float:
    """The share of a response's digits that are even; 0 without any."""
    digits = [int(c) for c in response if c in "0123456789"]
    return sum(digit % 2 == 0 for digit in digits) / max(len(digits), 1)


def serve(port: int, pace: Pace) -> None:
    """Answer OpenRLHF's remote reward requests on loopback, for ever."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            body = json.loads(self.rfile.read(length))
            pairs = zip(body["query"], body["prompts"], strict=True)
            rewards = [even_digits(query.removeprefix(prompt)) for query, prompt in pairs]
            pace.wait()
            answer = json.dumps({"rewards": rewards, "scores": rewards, "extra_logs": {}}).encode()
            with contextlib.suppress(ConnectionError):  # who asked may be dead
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

    Server(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Pace(float(sys.argv[2]), Path(sys.argv[3])))
