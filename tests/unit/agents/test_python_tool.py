import asyncio

import pytest

from vespo_openrlhf.agents import Step, python_tool
from vespo_openrlhf.agents.python_tool import PythonToolAgent
from vespo_openrlhf.agents.sandbox import Limits, Status, ToolResult


def play(monkeypatch: pytest.MonkeyPatch, action: str, status: Status = "ok") -> tuple[Step, list]:
    """A step with a sandbox that answers at once; the real one is in tests/integration."""
    ran = []

    async def run(code: str, limits: Limits) -> ToolResult:
        ran.append(code)
        return ToolResult("4\n", status, 0.1)

    monkeypatch.setattr(python_tool, "run", run)
    agent = PythonToolAgent()
    assert agent.reset("2 + 2?", "4") == "2 + 2?"
    return asyncio.run(agent.step(action)), ran


def test_the_last_block_is_run_and_its_output_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = "```python\nprint(1)\n```\nno:\n```python\nprint(2 + 2)\n```"
    step, ran = play(monkeypatch, blocks)
    assert ran == ["print(2 + 2)\n"]
    assert step.observation == [{"role": "user", "content": "```output\n4\n```"}]
    assert not step.done
    assert step.logs == {"tool_calls": 1, "tool_errors": 0, "tool_timeouts": 0}


@pytest.mark.parametrize(
    ("status", "errors", "timeouts"), [("error", 1, 0), ("timeout", 0, 1), ("memory", 1, 0)]
)
def test_failures_are_counted(
    monkeypatch: pytest.MonkeyPatch, status: Status, errors: int, timeouts: int
) -> None:
    step, _ = play(monkeypatch, "```python\nx\n```", status)
    assert step.logs == {"tool_calls": 1, "tool_errors": errors, "tool_timeouts": timeouts}
    assert (status in step.observation[0]["content"]) == (status != "error")  # type: ignore[index]


@pytest.mark.parametrize(("answer", "reward"), [(r"So \boxed{4}.", 1.0), (r"\boxed{5}", 0.0)])
def test_an_action_without_a_block_is_the_answer(
    monkeypatch: pytest.MonkeyPatch, answer: str, reward: float
) -> None:
    step, ran = play(monkeypatch, answer)
    assert (step.done, step.reward, ran) == (True, reward, [])


@pytest.mark.parametrize("bad", [{"seconds": 0}, {"memory_mb": 1}, {"output_bytes": 0}])
def test_limits_that_are_none_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Limits(**bad)  # type: ignore[arg-type]
