"""The same sums with a calculator at hand: an agent of two turns, and who asks it.

    347+586=          the user
    calc(347+586)     the policy asks
    933               the calculator answers, as the user
    \\boxed{933}       the policy copies

Who works the sum in columns instead forgets to carry, and is wrong. A model that has read both
does both, and which of them pays is for reinforcement learning to find.
"""

from __future__ import annotations

import re

from vespo_openrlhf.agents import Agent, Step
from vespo_openrlhf.embedded.arithmetic import Problem, boxed_answer

# The user's turn around it included.
MAX_OBSERVATION_TOKENS = 16

_CALL = re.compile(r"calc\((\d+)\+(\d+)\)")


class Calculator(Agent):
    """Answers a call once; anything else is the policy's last word. It logs `calls`."""

    max_turns = 2

    def __init__(self) -> None:
        self._label = ""
        self._asked = False

    def reset(self, prompt: str, label: str) -> str:
        self._label = label
        return prompt

    def step(self, action: str) -> Step:
        call = _CALL.fullmatch(action.strip())
        if call and not self._asked:
            self._asked = True
            total = sum(map(int, call.groups()))
            return Step([{"role": "user", "content": str(total)}], logs={"calls": 1})
        right = boxed_answer(action) == self._label
        return Step(reward=float(right), done=True, logs={"calls": 0})


def call(problem: Problem) -> str:
    """What asks the calculator."""
    return f"calc({problem.a}+{problem.b})"
