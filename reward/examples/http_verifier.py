"""A verifier behind HTTP, with retries and a circuit breaker.

Set ``VERIFIER_URL``; it is posted ``{"response", "label", "prompt"}`` and answers
``{"score": number}``. After :data:`FAILURES` failures in a row nothing is sent for
:data:`PAUSE_S`, so that a dead service costs each sample nothing instead of every retry.
Samples that it could not be asked about are logged as ``error`` and ``unavailable`` and are not
trained on: watch these numbers.
"""

import json
import os
import threading
import time
import urllib.error
import urllib.request

from vespo_openrlhf.reward import make_reward_func, note_unjudged

ATTEMPTS = 3
TIMEOUT_S = 10.0
FAILURES = 5
PAUSE_S = 30.0


class CircuitBreaker:
    """Opens after a number of failures in a row, and lets one call try again after a pause."""

    def __init__(self, failures: int, pause_s: float) -> None:
        self._limit, self._pause_s = failures, pause_s
        self._failures, self._open_until = 0, 0.0
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise ConnectionError while the circuit is open."""
        with self._lock:
            now = time.monotonic()
            if now < self._open_until:
                raise ConnectionError("the verifier is down; not asked")
            if self._failures >= self._limit:
                self._open_until = now + self._pause_s  # one goes through, the rest wait

    def report(self, succeeded: bool) -> None:
        """Count a call."""
        with self._lock:
            self._failures = 0 if succeeded else self._failures + 1
            if succeeded:
                self._open_until = 0.0
            elif self._failures >= self._limit:
                self._open_until = time.monotonic() + self._pause_s


BREAKER = CircuitBreaker(FAILURES, PAUSE_S)


def _post(url: str, body: bytes) -> float:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
        return float(json.load(reply)["score"])


def score(response: str, label: str, prompt: str) -> float:
    """Ask the verifier; one that is down says nothing about the response."""
    try:
        return _ask(response, label, prompt)
    except ConnectionError:
        note_unjudged("unavailable")
        raise


def _ask(response: str, label: str, prompt: str) -> float:
    """The score, asked for again after a growing pause where that fails for a moment."""
    url = os.environ["VERIFIER_URL"]
    body = json.dumps({"response": response, "label": label, "prompt": prompt}).encode()
    for attempt in range(ATTEMPTS):
        BREAKER.check()
        try:
            result = _post(url, body)
        except urllib.error.HTTPError as error:
            BREAKER.report(error.code < 500)
            if error.code < 500:
                raise
        except (OSError, ValueError):
            BREAKER.report(False)
        else:
            BREAKER.report(True)
            return result
        time.sleep(0.2 * 2**attempt)
    raise ConnectionError(f"no answer from {url} in {ATTEMPTS} attempts")


# It only waits for the network and keeps its own time, so it needs no process of its own.
reward_func = make_reward_func(score, isolated=False)
