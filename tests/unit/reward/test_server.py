"""Who of those that wait for a worker is next, and how much of it they get."""

import asyncio
import json
import os
import signal
from concurrent.futures import Future
from typing import Any

import pytest

from vespo_openrlhf.reward.pool import server, worker
from vespo_openrlhf.reward.pool.server import Pool, Server, _Turns


def test_a_first_try_goes_ahead_of_a_second() -> None:
    async def run() -> list[str]:
        turns, order = _Turns(1), []

        async def take(name: str, rank: int) -> None:
            await turns.take(rank)
            order.append(name)
            turns.give()

        await turns.take(0)
        tasks = [
            asyncio.create_task(take(name, rank))
            for name, rank in (("slow", 1), ("a", 0), ("slower", 1), ("b", 0), ("gone", 0))
        ]
        await asyncio.sleep(0)
        tasks[-1].cancel()
        turns.give()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert turns._free == 1
        return order

    assert asyncio.run(run()) == ["a", "b", "slow", "slower"]


def test_a_turn_that_comes_too_late_is_passed_on() -> None:
    async def run() -> int:
        turns = _Turns(1)
        await turns.take(0)
        waiting = asyncio.create_task(turns.take(0))
        await asyncio.sleep(0)
        turns.give()  # in the same step of the loop in which it loses its patience
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return turns._free

    assert asyncio.run(run()) == 1


def test_an_answer_gets_short_slices_before_all_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pools are replaced by records of what they are asked."""
    asked: list[tuple[str, int, Any]] = []

    def record(name: str, reply: dict[str, Any]) -> Any:
        async def run(function: Any, args: Any, timeout: float, rank: int = 0) -> dict[str, Any]:
            asked.append((name, rank, args[2] if name == "quick" else timeout))
            return reply

        return run

    server = Server(1)
    for name, reply in (("quick", {"value": []}), ("patient", {"value": "wrong"})):
        monkeypatch.setattr(getattr(server, name), "run", record(name, reply))
    request = {"op": "compare", "args": [["4"], ["x"]], "timeout": 5.0}
    assert asyncio.run(server._answer(json.dumps(request).encode())) == {"value": "wrong"}
    (first, second, third) = asked
    assert first[:2] == ("quick", 0)
    assert first[2] <= 0.05
    assert second[:2] == ("quick", 1)
    assert third == ("patient", 0, 5.0)


def test_the_same_comparison_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pools are replaced by one that ends when it is told to."""

    async def run() -> None:
        server, made, go_on = Server(1), [], asyncio.Event()

        async def quick(function: Any, args: Any, *_: Any) -> dict[str, Any]:
            made.append(args)
            await go_on.wait()
            return {"value": ["wrong"]}

        monkeypatch.setattr(server.quick, "run", quick)
        lines = [
            json.dumps({"op": "compare", "args": [["4"], [answer]], "timeout": 5.0}).encode()
            for answer in "xxxyx"
        ]
        asked = [asyncio.create_task(server._answer(line)) for line in lines]
        await asyncio.sleep(0)
        asked[0].cancel()  # the others' answer still comes
        asked[3].cancel()  # nobody else asks for this
        await asyncio.wait([asked[0], asked[3]])
        await asyncio.sleep(0)
        assert list(server._shared) == [lines[1]]
        go_on.set()
        others = await asyncio.gather(*(asked[n] for n in (1, 2, 4)))
        assert others == [{"value": "wrong"}] * 3
        assert len(made) == 2
        assert not server._shared

    asyncio.run(run())


def test_a_request_that_no_worker_takes_is_overloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vespo_openrlhf.reward.pool.server.QUEUE_S", 0.0)
    server = Server(0)
    request = {"op": "compare", "args": [["4"], ["x"]], "timeout": 0.01}
    assert asyncio.run(server._answer(json.dumps(request).encode())) == {"failure": "overloaded"}


def busy_in_c() -> None:
    """No signal handler of Python's runs before this ends, which takes hours."""
    sum(range(10**12))


def test_what_c_computes_costs_no_more_than_its_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(worker.OPERATIONS, "busy", busy_in_c)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.signal(signal.SIGVTALRM, worker._slow)
        worker.quickly("busy", [], 0.03)
        os._exit(0)
    _, status, used = os.wait4(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGPROF
    assert used.ru_utime < 5.0  # of processor time


def test_a_worker_that_the_slice_kills_is_a_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(worker.OPERATIONS, "busy", busy_in_c)
    pool = Pool(1, 0)
    try:
        reply = asyncio.run(pool.run(worker.quickly, ["busy", [], 0.03], 600.0))
        assert reply == {"failure": "timeout"}
    finally:
        pool.stop()


def test_a_call_that_is_lost_with_its_worker_is_made_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pebble's future for it, which never ends, is a stand-in."""
    monkeypatch.setattr(server, "LOST_S", 0.1)
    lost: Future[int] = Future()
    made: Future[int] = Future()
    made.set_result(7)
    calls = iter([lost, made, Future(), Future()])
    pool = Pool(1, 0)
    monkeypatch.setattr(pool, "_submit", lambda *_: next(calls))

    async def ask() -> dict[str, Any]:
        return await asyncio.wait_for(pool.run(len, [""], 0.1), 5)

    assert asyncio.run(ask()) == {"value": 7}
    assert lost.cancelled()
    assert asyncio.run(ask()) == {"failure": "unavailable"}  # twice is once too often
    pool.stop()
