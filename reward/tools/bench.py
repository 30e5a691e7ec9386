"""``vespo reward bench``: throughput, latency under attack and the stall of an event loop.

The answers are generated, so that anyone can run it; ``--golds`` adds a JSON-lines file with
the column ``answer``. math-verify is timed in one process, as a user would call it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vespo_openrlhf.reward.api import verify
from vespo_openrlhf.reward.tools.adversarial import adversarial_answers
from vespo_openrlhf.reward.tools.audit import read_rows

_FILLER = "We add the two sides, and simplify what is left over by the step before. "
_THREADS = 16


def _responses(golds: list[str], length: int, wrong_half: bool) -> list[tuple[str, str]]:
    """(response, gold) of about ``length`` characters; every second one wrong if asked."""
    text = (_FILLER * (length // len(_FILLER) + 1))[:length]
    pairs = []
    for index, gold in enumerate(golds):
        answer = golds[(index + 7) % len(golds)] if wrong_half and index % 2 else gold
        pairs.append((f"{text} So the answer is $\\boxed{{{answer}}}$.", gold))
    return pairs


def _math_verify(pairs: list[tuple[str, str]]) -> float:
    import math_verify

    started = time.perf_counter()
    for response, gold in pairs:
        target = math_verify.parse(response)
        math_verify.verify(math_verify.parse(f"\\boxed{{{gold}}}"), target)
    return len(pairs) / (time.perf_counter() - started)


def _ours(pairs: list[tuple[str, str]]) -> float:
    started = time.perf_counter()
    with ThreadPoolExecutor(_THREADS) as threads:
        list(threads.map(lambda pair: verify(*pair), pairs))
    return len(pairs) / (time.perf_counter() - started)


def throughput(golds: list[str]) -> list[dict[str, Any]]:
    """Verifications per second, ours and math-verify's, on the same distinct answers."""
    source = random.Random(7)
    integers = [str(n) for n in source.sample(range(-(10**6), 10**6), 1000)]
    cases: list[tuple[str, list[tuple[str, str]]]] = [
        ("integers, 300 characters", _responses(integers, 300, False)),
        ("integers, 16,000 characters", _responses(integers[:300], 16_000, False)),
        ("expressions, half wrong", _responses(golds, 300, True)),
    ]
    rows = []
    for name, pairs in cases:
        _math_verify(pairs[:20])
        _ours(pairs[:20])
        theirs, ours = _math_verify(pairs), _ours(pairs)
        rows.append({"case": name, "math_verify_per_s": round(theirs), "ours_per_s": round(ours),
                     "ratio": round(ours / theirs, 1)})  # fmt: skip
    return rows


def generated_golds(count: int = 400) -> list[str]:
    """Distinct expressions of the kinds that golds are."""
    source = random.Random(11)
    forms: list[Callable[[int, int], str]] = [
        lambda a, b: f"\\frac{{{a}}}{{{b}}}",
        lambda a, b: f"{a}\\sqrt{{{b}}}",
        lambda a, b: f"({a}, {b})",
        lambda a, b: f"{a}x^2 + {b}x",
        lambda a, b: f"{a} + {b}i",
        lambda a, b: f"\\frac{{{a}\\pi}}{{{b}}}",
        lambda a, b: str(a * b),
        lambda a, b: f"[{a}, {a + b})",
    ]
    return list(
        dict.fromkeys(
            forms[i % len(forms)](source.randint(2, 99), source.randint(2, 99))
            for i in range(count)
        )
    )


def _worker_bound(count: int = 64) -> list[tuple[str, str]]:
    """Answers that are right, and of which only the workers can tell."""
    return [(f"so \\boxed{{x^2-{n * n}}}", f"(x-{n})(x+{n})") for n in range(2, count + 2)]


class _NormalRequests:
    """Threads that keep asking while the body of a ``with`` runs, one per kind of request."""

    def __init__(self) -> None:
        self._kinds = {"normal": _responses(generated_golds(64), 300, True),
                       "worker_bound": _worker_bound()}  # fmt: skip
        self._latencies: dict[str, list[float]] = {kind: [] for kind in self._kinds}
        self._stop = False

    def _ask(self, kind: str) -> None:
        requests = itertools.cycle(self._kinds[kind])
        while not self._stop:
            started = time.perf_counter()
            verify(*next(requests))
            self._latencies[kind].append(1000 * (time.perf_counter() - started))
            time.sleep(0.005)

    def __enter__(self) -> _NormalRequests:
        self._threads = ThreadPoolExecutor(len(self._kinds))
        self._running = [self._threads.submit(self._ask, kind) for kind in self._kinds]
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop = True
        self._threads.shutdown()
        for running in self._running:
            running.result()

    def figures(self) -> dict[str, Any]:
        """How many there were of each kind, and how long they took, in milliseconds."""
        return {
            kind: {
                "requests": len(taken), "p50_ms": round(statistics.median(taken), 1),
                "p99_ms": round(statistics.quantiles(taken, n=100)[98], 1),
            }
            for kind, taken in self._latencies.items()
        }  # fmt: skip


def _attacks() -> list[tuple[str, str, str]]:
    """(name, response, gold) of every adversarial answer, against a number and an expression."""
    return [
        (name, f"so \\boxed{{{answer}}}", gold)
        for gold in ("7", "\\frac{\\sqrt{2}x}{3}")
        for name, answer in adversarial_answers().items()
    ]


def attack(timeout_s: float, at_once: int) -> dict[str, Any]:
    """The adversarial answers, so many at a time, while normal requests keep coming."""

    def one(case: tuple[str, str, str]) -> tuple[float, str]:
        name, response, gold = case
        started = time.perf_counter()
        if verify(response, gold, timeout_s=timeout_s).correct:
            raise AssertionError(f"{name} was called right")
        return time.perf_counter() - started, name

    for request in _worker_bound(8):
        verify(*request)
    with _NormalRequests() as undisturbed:
        time.sleep(5)
    with _NormalRequests() as disturbed, ThreadPoolExecutor(at_once) as threads:
        took, slowest = max(threads.map(one, _attacks()))
    return {
        "at_once": at_once, "limit_s": timeout_s, "slowest_s": round(took, 2), "slowest": slowest,
        "undisturbed": undisturbed.figures(), "under_attack": disturbed.figures(),
    }  # fmt: skip


def _waited_for_a_core() -> float:
    """Milliseconds that this thread was ready to run, and others had the cores; Linux only."""
    try:
        path = f"/proc/self/task/{threading.get_native_id()}/schedstat"
        return int(Path(path).read_text().split()[1]) / 1e6
    except OSError:
        return 0.0


def loop_stall(timeout_s: float) -> dict[str, Any]:
    """The longest an asyncio loop waits while samples are scored as OpenRLHF scores them.

    Of a stall, what was spent waiting for a core is the machine's; the rest is waiting for the
    interpreter, which is ours.
    """

    async def longest(work: Callable[[], Awaitable[Any]]) -> dict[str, float]:
        stalls, ours = [0.0], [0.0]
        done = False

        async def ticks() -> None:
            while not done:
                waited, started = _waited_for_a_core(), time.perf_counter()
                await asyncio.sleep(0.001)
                stalls.append(1000 * (time.perf_counter() - started) - 1)
                ours.append(stalls[-1] - (_waited_for_a_core() - waited))

        ticking = asyncio.create_task(ticks())
        await work()
        done = True
        await ticking
        return {"longest_ms": round(max(stalls), 1), "with_a_core_ms": round(max(ours), 1)}

    async def samples() -> None:
        await asyncio.gather(
            *(
                asyncio.to_thread(verify, response, gold, timeout_s=timeout_s)
                for _, response, gold in _attacks()
            )
        )

    async def run() -> dict[str, Any]:
        started = time.perf_counter()
        scoring = await longest(samples)
        took = time.perf_counter() - started
        # What the machine itself does to a loop with nothing else to do, for as long.
        return {"scoring": scoring, "idle": await longest(lambda: asyncio.sleep(took))}

    verify("\\boxed{x^2-1}", "(x-1)(x+1)")
    return asyncio.run(run())


def main(golds_file: str | None, timeout_s: float) -> None:
    """Run everything and print one JSON object per line."""
    golds = generated_golds()
    if golds_file:
        golds = [str(row["answer"]) for row in read_rows(golds_file)]
    for row in throughput(golds):
        print(json.dumps({"throughput": row}), flush=True)
    for at_once in (1, _THREADS):
        print(json.dumps({"attack": attack(timeout_s, at_once)}), flush=True)
    print(json.dumps({"loop": loop_stall(timeout_s)}), flush=True)
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    print(json.dumps({"machine": {"cores": cores, "load_1min": round(load, 1)}}), flush=True)
