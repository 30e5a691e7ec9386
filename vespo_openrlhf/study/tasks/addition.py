"""`addition`: the embedded problems, worked by columns, some thirty tokens.

Problems and worked solutions are those of `vespo_openrlhf.embedded`. The quickstart's warm start
chooses between two procedures, which a handful of updates decides; what staleness does to a policy
shows where there is more to lose. Here the demonstrations are all by the careful student, whose
pen slips: any digit written may come out as a random one. Reinforcement learning then has to make
every one of a response's digits reliable, and can unmake it.

Shapes as in `tasks`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from vespo_openrlhf.embedded.arithmetic import Problem, split_problems, worked_solution
from vespo_openrlhf.study.tasks.decoder import DecoderTask

BOX = "\\boxed{"
VOCABULARY = (*"0123456789+=\n}", BOX, "<end>", "<pad>")
_ID = {token: i for i, token in enumerate(VOCABULARY)}
END, PAD = _ID["<end>"], _ID["<pad>"]

#: "347+586=": every prompt has as many tokens.
PROMPT_TOKENS = 8
#: A right solution takes at most 31, its end included.
MAX_RESPONSE_TOKENS = 34
MAX_TOKENS = PROMPT_TOKENS + MAX_RESPONSE_TOKENS


def encode(text: str) -> list[int]:
    """Token ids of a prompt or solution; the opening of the box is one token."""
    ids: list[int] = []
    for i, part in enumerate(text.split(BOX)):
        if i:
            ids.append(_ID[BOX])
        ids.extend(_ID[character] for character in part)
    return ids


class Addition(DecoderTask):
    """Sums of two numbers of three digits, see `embedded.arithmetic`."""

    name = "addition"
    prompt_tokens = PROMPT_TOKENS
    max_response_tokens = MAX_RESPONSE_TOKENS
    vocabulary = VOCABULARY
    end = END
    pad = PAD

    def split(self, seed: int, sizes: Sequence[int]) -> list[list[Problem]]:
        return split_problems(seed, sizes)

    def encode_prompts(self, problems: Sequence[Problem]) -> Tensor:
        return torch.tensor([encode(problem.prompt) for problem in problems])

    def encode_answers(self, problems: Sequence[Problem]) -> Tensor:
        """(B, 7) int64: what a right response ends in, `\\boxed{` to `<end>`, -1 in front of it."""
        rows = []
        for problem in problems:
            ids = [*encode(f"{BOX}{problem.label}}}"), END]
            rows.append([-1] * (7 - len(ids)) + ids)
        return torch.tensor(rows)

    def demonstrations(self, problems: Sequence[Problem], slip: float, seed: int) -> Tensor:
        rng = random.Random(f"slips-{seed}")
        rows = []
        for problem in problems:
            solution = [
                rng.randrange(10) if token < 10 and rng.random() < slip else token
                for token in encode(worked_solution(problem))
            ]
            row = [*encode(problem.prompt), *solution, END]
            rows.append(row + [PAD] * (MAX_TOKENS - len(row)))
        return torch.tensor(rows)
