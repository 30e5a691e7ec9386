"""``python -m reward bench``: throughput, latency under attack and the stall of an event loop.

The answers are generated, so that anyone can run it; ``--golds`` adds a JSON-lines file with
the column ``answer``. math-verify is timed in one process, as a user would call it.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from reward.adversarial import adversarial_answers
from reward.api import verify

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


def attack(timeout_s: float) -> dict[str, Any]:
    """Each adversarial answer, in turn, while normal requests keep coming."""
    normal = _responses(generated_golds(64), 300, True)
    verify(*normal[2])
    latencies: list[float] = []
    stop = False

    def normal_requests() -> None:
        index = 0
        while not stop:
            started = time.perf_counter()
            verify(*normal[index % len(normal)])
            latencies.append(1000 * (time.perf_counter() - started))
            index += 1
            time.sleep(0.005)

    slowest, slowest_name = 0.0, ""
    with ThreadPoolExecutor(1) as threads:
        background = threads.submit(normal_requests)
        try:
            for gold in ("7", "\\frac{\\sqrt{2}x}{3}"):
                for name, answer in adversarial_answers().items():
                    started = time.perf_counter()
                    verdict = verify(f"so \\boxed{{{answer}}}", gold, timeout_s=timeout_s)
                    took = time.perf_counter() - started
                    if verdict.correct:
                        raise AssertionError(f"{name} was called right")
                    if took > slowest:
                        slowest, slowest_name = took, name
        finally:
            stop = True
        background.result()
    return {
        "limit_s": timeout_s, "slowest_s": round(slowest, 2), "slowest": slowest_name,
        "normal_requests": len(latencies), "normal_p50_ms": round(statistics.median(latencies), 1),
        "normal_p99_ms": round(statistics.quantiles(latencies, n=100)[98], 1),
    }  # fmt: skip


def loop_stall(timeout_s: float) -> dict[str, float]:
    """The longest an asyncio loop waits while samples are scored as OpenRLHF scores them."""

    async def longest(work: Callable[[], Awaitable[Any]]) -> float:
        stalls = [0.0]
        done = False

        async def ticks() -> None:
            while not done:
                started = time.perf_counter()
                await asyncio.sleep(0.001)
                stalls.append(1000 * (time.perf_counter() - started) - 1)

        ticking = asyncio.create_task(ticks())
        await work()
        done = True
        await ticking
        return round(max(stalls), 1)

    async def samples() -> None:
        await asyncio.gather(
            *(
                asyncio.to_thread(verify, f"so \\boxed{{{answer}}}", gold, timeout_s=timeout_s)
                for gold in ("7", "\\frac{\\sqrt{2}x}{3}")
                for answer in adversarial_answers().values()
            )
        )

    async def run() -> dict[str, float]:
        started = time.perf_counter()
        stall = await longest(samples)
        took = time.perf_counter() - started
        # What the machine itself does to a loop with nothing else to do, for as long.
        return {"longest_ms": stall, "idle_longest_ms": await longest(lambda: asyncio.sleep(took))}

    verify("\\boxed{x^2-1}", "(x-1)(x+1)")
    return asyncio.run(run())


def main(golds_file: str | None, timeout_s: float) -> None:
    """Run everything and print one JSON object per line."""
    golds = generated_golds()
    if golds_file:
        lines = Path(golds_file).read_text(encoding="utf-8").splitlines()
        golds = [str(json.loads(line)["answer"]) for line in lines if line.strip()]
    for row in throughput(golds):
        print(json.dumps({"throughput": row}), flush=True)
    print(json.dumps({"attack": attack(timeout_s)}), flush=True)
    print(json.dumps({"loop": loop_stall(timeout_s)}), flush=True)
