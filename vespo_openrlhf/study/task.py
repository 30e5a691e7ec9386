"""The task: the embedded addition problems as token ids, a warm start with slips, and a verdict.

Problems and worked solutions are those of `vespo_openrlhf.embedded`. The quickstart's warm start
chooses between two procedures, which a handful of updates decides; what staleness does to a policy
shows where there is more to lose. Here the demonstrations are all by the careful student, whose
pen slips: any digit written may come out as a random one. Reinforcement learning then has to make
every one of a response's digits reliable, and can unmake it.

Shapes: B sequences, P prompt tokens, A response tokens (padded), T = P + A.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from vespo_openrlhf.embedded.arithmetic import Problem, worked_solution

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


def encode_prompts(problems: Sequence[Problem]) -> Tensor:
    """(B, P) int64 ids of the prompts."""
    return torch.tensor([encode(problem.prompt) for problem in problems])


def encode_answers(problems: Sequence[Problem]) -> Tensor:
    """(B, 7) int64: what a right response ends in, `\\boxed{` to `<end>`, -1 in front of it."""
    rows = []
    for problem in problems:
        ids = [*encode(f"{BOX}{problem.label}}}"), END]
        rows.append([-1] * (7 - len(ids)) + ids)
    return torch.tensor(rows)


def demonstrations(problems: Sequence[Problem], slip: float, seed: int) -> Tensor:
    """(B, T) int64: prompts and worked solutions, in which each digit slips with chance `slip`.

    Args:
        problems: B of them.
        slip: the chance that a digit of the solution is replaced by a random one, which may be
            the same; 0 to 1.
        seed: of the slips.
    """
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


def response_mask(responses_BA: Tensor) -> Tensor:
    """(B, A) bool: True up to the first end and on it. PAD itself may be drawn before that."""
    ends_BA = responses_BA == END
    return ends_BA.cumsum(dim=1) == ends_BA


def is_right(responses_BA: Tensor, answers_BS: Tensor) -> Tensor:
    """(B,) bool: the response ends in the right boxed sum, whatever the work before it says.

    Args:
        responses_BA: (B, A) int64 ids, with PAD after the end.
        answers_BS: of `encode_answers`, row by row for the same problems.
    """
    size = answers_BS.shape[1]
    length_B1 = response_mask(responses_BA).sum(dim=1, keepdim=True)
    place_BS = length_B1 - size + torch.arange(size)
    tail_BS = responses_BA.gather(1, place_BS.clamp(min=0))
    matches = (tail_BS == answers_BS) & (place_BS >= 0)
    return (matches | (answers_BS < 0)).all(dim=1)
