"""How requests are dealt out to engines, and what happens when one dies.

Ray is a stand-in here, so that an engine can die at a chosen call; the real one with two engines
is in tests/e2e/test_eval.py.
"""

import types

import pytest

from vespo_openrlhf.eval.benchmarks.templates import Prompt
from vespo_openrlhf.eval.engines import Completion, Request
from vespo_openrlhf.eval.engines.on_ray import ClusterEngine
from vespo_openrlhf.eval.errors import EvaluationError


class DiedError(Exception):
    pass


class TaskError(Exception):
    """As Ray's: the worker's own exception is its `cause`."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("a traceback of many lines")
        self.cause = cause


class Call:
    def __init__(self, result: object) -> None:
        self.result = result


class Worker:
    """Finishes up to three of the requests it holds a call; fails at the call it is told to."""

    def __init__(self, dies_at: int | None = None, failure: Exception | None = None) -> None:
        self.held: list[int] = []
        self.calls = 0
        self.dies_at = dies_at
        self.failure = failure or DiedError("gone")
        self.done = 0
        self.advance = types.SimpleNamespace(remote=self._advance)

    def _advance(self, new: dict[int, Request]) -> Call:
        self.calls += 1
        self.held += new
        if self.dies_at is not None and self.calls >= self.dies_at:
            return Call(self.failure)
        finished, self.held = self.held[:3], self.held[3:]
        self.done += len(finished)
        return Call([Completion(i, str(i), 1, "stop") for i in finished])


def get(call: Call) -> object:
    if isinstance(call.result, Exception):
        raise call.result
    return call.result


RAY = types.SimpleNamespace(
    wait=lambda calls, num_returns: (calls[:1], calls[1:]),
    get=get,
    exceptions=types.SimpleNamespace(RayActorError=DiedError, RayTaskError=TaskError),
)
REQUESTS = [Request("b", str(i), 0, i, Prompt("?", None), 1.0) for i in range(50)]


def cluster(*workers: Worker, capacity: int = 4) -> ClusterEngine:
    engine = ClusterEngine.__new__(ClusterEngine)
    engine._ray = RAY
    engine._workers = list(workers)
    engine._capacity = [capacity] * len(workers)
    return engine


def test_every_request_is_answered_once_and_the_work_is_shared() -> None:
    workers = Worker(), Worker(), Worker()
    answered = [c.index for c in cluster(*workers).generate(REQUESTS)]
    assert sorted(answered) == list(range(50))
    assert min(worker.done for worker in workers) > 10


def test_a_short_queue_is_dealt_out_evenly() -> None:
    workers = Worker(), Worker()
    list(cluster(*workers, capacity=1000).generate(REQUESTS[:6]))
    assert [worker.done for worker in workers] == [3, 3]


@pytest.mark.parametrize("call", [1, 3])
def test_the_others_take_over_from_an_engine_that_dies(call: int) -> None:
    engine = cluster(Worker(), Worker(dies_at=call), capacity=40)
    answered = [c.index for c in engine.generate(REQUESTS)]
    assert sorted(answered) == list(range(50))


def test_when_every_engine_has_died_the_run_stops() -> None:
    engine = cluster(Worker(dies_at=2), Worker(dies_at=1))
    with pytest.raises(EvaluationError, match="every engine has died"):
        list(engine.generate(REQUESTS))


@pytest.mark.parametrize("cause", [EvaluationError("vLLM gave way"), ValueError("too long")])
def test_what_an_engine_raised_is_raised_as_it_was(cause: Exception) -> None:
    engine = cluster(Worker(), Worker(dies_at=1, failure=TaskError(cause)))
    with pytest.raises(type(cause), match=f"^{cause}$"):
        list(engine.generate(REQUESTS))
