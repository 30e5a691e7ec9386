"""An agent whose policy may have Python run before it answers."""

from __future__ import annotations

import re

from vespo_openrlhf.agents.agent import Agent, Observation, Step
from vespo_openrlhf.agents.calling import in_thread
from vespo_openrlhf.agents.sandbox import Limits, ToolResult, run
from vespo_openrlhf.reward.labels import parse_label
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.reward.scoring import judge_label


class PythonToolAgent(Agent):
    """Runs the last fenced python block of an action; an action without one is the answer.

    Each call is a process and a folder of its own: nothing is kept from one to the next. It logs
    `tool_calls`, `tool_errors` (the code failed, or exceeded a limit other than time) and
    `tool_timeouts`.
    """

    #: Of one call.
    limits: Limits = Limits()
    #: Finds the code, as its first group.
    block: str = r"```python[ \t]*\n(.*?)```"
    #: Of the message with the output; few chat templates know "tool". None: text, as it is.
    role: str | None = "user"

    def __init__(self) -> None:
        self.prompt = ""
        self._label = ""

    def reset(self, prompt: str, label: str) -> Observation:
        self.prompt, self._label = prompt, label
        return prompt

    async def step(self, action: str) -> Step:
        blocks = list(re.finditer(self.block, action, re.DOTALL))
        if not blocks:
            return Step(reward=await in_thread(self.score, action, self._label), done=True)
        result = await run(blocks[-1][1], self.limits)
        text = self.answer(result)
        return Step(
            text if self.role is None else [{"role": self.role, "content": text}],
            logs={
                "tool_calls": 1,
                "tool_errors": result.status not in ("ok", "timeout"),
                "tool_timeouts": result.status == "timeout",
            },
        )

    def answer(self, result: ToolResult) -> str:
        """What the policy reads of a call."""
        said = "" if result.status in ("ok", "error") else f"\n[stopped: {result.status}]"
        return f"```output\n{result.output.rstrip()}{said}\n```"

    def score(self, answer: str, label: str) -> float:
        """The reward of the answer: 1.0 where the math verifier finds it right, or 0.0.

        Raises:
            RuntimeError: the verifier is busy or gone: the sample is left out.
        """
        verdict = judge_label(answer, parse_label(label), self.prompt, RewardOptions.from_env())
        if not verdict.judged:
            raise RuntimeError(f"the verifier has no verdict: {verdict.reason}")
        return float(verdict.correct)
