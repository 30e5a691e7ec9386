"""What every peer is given to train: one job, at two sizes. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

#: A quarter of the quickstart's, which has fewer batches to get there.
LEARNING_RATE = 1e-4
MIN_LEARNING_RATE_SHARE = 0.1
WARM_UP_SHARE = 0.03


@dataclass(frozen=True)
class Task:
    """A job of reinforcement learning.

    Attributes:
        name: of the size.
        prompts: of a rollout batch.
        samples_per_prompt: responses to each.
        updates: optimizer updates of a rollout batch.
        max_prompt_tokens: that a prompt can take, the chat template's included.
        max_response_tokens: that a response can take.
        batches: rollout batches to train.
    """

    name: str
    prompts: int
    samples_per_prompt: int
    updates: int
    max_prompt_tokens: int
    max_response_tokens: int
    batches: int

    @property
    def samples(self) -> int:
        """Of a rollout batch."""
        return self.prompts * self.samples_per_prompt

    @property
    def samples_per_update(self) -> int:
        return self.samples // self.updates


#: The quickstart's: 0.34 M parameters, answers of about 30 tokens.
SMALL = Task("small", 64, 8, 8, 24, 40, batches=24)
#: 5.1 M parameters, answers of 25 to 256 tokens.
LARGE = Task("large", 16, 8, 8, 24, 256, batches=12)
TASKS = {task.name: task for task in (SMALL, LARGE)}
