"""An agent that says whether an answer is right, and lets the policy try again."""

from __future__ import annotations

from vespo_openrlhf.agents.agent import Agent, Observation, Step
from vespo_openrlhf.reward.labels import parse_label
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.reward.scoring import judge_label


class FeedbackAgent(Agent):
    """The math verifier's verdict after each try; the later it is right, the less it is worth.

    It logs `tries`, `right_first` (the first try was right) and `right_last` (the last one was).
    """

    #: Of a right answer at the first try, at the second, and so on; there are as many tries.
    rewards: tuple[float, ...] = (1.0, 0.5, 0.25)
    #: What the policy reads after a wrong answer.
    again: str = "That is not right. Try again."

    def __init__(self) -> None:
        self.max_turns = len(self.rewards)
        self.prompt = ""
        self._label = ""
        self._tries = 0

    def reset(self, prompt: str, label: str) -> Observation:
        self.prompt, self._label = prompt, label
        return prompt

    def step(self, action: str) -> Step:
        right = self.is_right(action, self._label)
        reward = self.rewards[self._tries] if right else 0.0
        first = self._tries == 0
        self._tries += 1
        return Step(
            [{"role": "user", "content": self.again}],
            reward,
            done=right or self._tries == len(self.rewards),
            # Each turn adds its part, so that they hold where the room ends an episode.
            logs={"tries": 1, "right_first": right and first, "right_last": right},
        )

    def is_right(self, answer: str, label: str) -> bool:
        """Whether an answer is right; override it for a task that is not mathematics.

        Args:
            answer: what the policy has said in this turn.
            label: of the data set.

        Raises:
            RuntimeError: the verifier is busy or gone: the sample is left out.
        """
        verdict = judge_label(answer, parse_label(label), self.prompt, RewardOptions.from_env())
        if not verdict.judged:
            raise RuntimeError(f"the verifier has no verdict: {verdict.reason}")
        return verdict.correct
