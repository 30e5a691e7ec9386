"""`uneven` and `long`: a running sum with thinking in between, whose length tells nothing.

The prompt is nine digits. A response opens with how it will think, thinks between its digits in
tokens that say nothing, and writes the sum so far, modulo ten, nine times:

    4 7 1 ...    ->    ~ b a d 4 c 1 a a d b 2 ... <end>

One slip of the pen and every digit after it is wrong, so all nine have to be reliable. How much it
thinks is drawn (in the warm start evenly among the ways there are), and the chance of a slip is the
same. So lengths within a group differ by what the reward does not look at, but for responses that
are cut off, or end too soon; and log W adds up over tokens that it does not look at either.

The policy is as cheap as a table, see `ContextTable`, so that a thousand tokens cost little.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from vespo_openrlhf.study.tasks import Task, digit_problems, response_mask
from vespo_openrlhf.study.tasks.context_table import (
    END,
    FIRST_THOUGHT,
    FIRST_WAY,
    PAD,
    TERMS,
    ContextTable,
)


class RunningSum(Task):
    """The sum of nine digits modulo ten, written as it grows.

    Attributes:
        thinking: of each way to think, the mean number of tokens before a digit.
        fixed: whether training cannot change how long a response thinks and where it ends.
    """

    fixed: ClassVar[bool] = False

    learning_rate = 3e-3
    prompt_tokens = TERMS
    end = END
    thinking: ClassVar[tuple[float, ...]]

    def split(self, seed: int, sizes: Sequence[int]) -> list[list[tuple[int, ...]]]:
        return digit_problems(random.Random(f"running-sum-{seed}"), TERMS, sizes)

    def encode_prompts(self, problems: Sequence[tuple[int, ...]]) -> Tensor:
        return torch.tensor(list(problems))

    def encode_answers(self, problems: Sequence[tuple[int, ...]]) -> Tensor:
        """(B,) int64: the last digit of a right response."""
        return self.encode_prompts(problems).sum(dim=1) % 10

    def demonstrations(self, problems: Sequence[tuple[int, ...]], slip: float, seed: int) -> Tensor:
        source = torch.Generator(torch.get_default_device()).manual_seed(seed + 1)
        terms_BN = self.encode_prompts(problems)
        batch, places = len(problems), self.max_response_tokens
        ways_B = torch.randint(len(self.thinking), (batch,), generator=source)
        mean_B1 = torch.tensor(self.thinking, dtype=torch.float64)[ways_B, None]
        # Geometric: after each token of it thinking goes on with the chance mean / (mean + 1).
        draws_BN = torch.rand(batch, TERMS, generator=source, dtype=torch.float64)
        counts_BN = (draws_BN.log() / (mean_B1 / (mean_B1 + 1)).log()).long()
        while (too_long := counts_BN.sum(dim=1) > places - TERMS - 2).any():
            counts_BN[too_long] //= 2
        responses = torch.randint(FIRST_THOUGHT, FIRST_WAY, (batch, places), generator=source)
        slips_BN = torch.rand(batch, TERMS, generator=source) < slip
        random_BN = torch.randint(10, (batch, TERMS), generator=source)
        digit_B = torch.zeros(batch, dtype=torch.int64)
        place_B = torch.zeros(batch, dtype=torch.int64)
        every = torch.arange(batch)
        responses[:, 0] = FIRST_WAY + ways_B
        for term in range(TERMS):
            digit_B = (digit_B + terms_BN[:, term]) % 10
            digit_B = torch.where(slips_BN[:, term], random_BN[:, term], digit_B)
            place_B = place_B + counts_BN[:, term] + 1
            responses[every, place_B] = digit_B
        responses[every, place_B + 1] = END
        after = torch.arange(places) > place_B[:, None] + 1
        return torch.cat([terms_BN, responses.masked_fill(after, PAD)], dim=1)

    def is_right(self, responses_BA: Tensor, answers: Tensor) -> Tensor:
        """The response ends in the right digit, its ninth."""
        length_B = response_mask(responses_BA, END).sum(dim=1)
        digits_BA = responses_BA < FIRST_THOUGHT
        last_B1 = (length_B - 2).clamp(min=0)[:, None]
        ended = (responses_BA == END).any(dim=1) & (length_B > 1)
        return (
            ended
            & (digits_BA.sum(dim=1) == TERMS)
            & (responses_BA.gather(1, last_B1)[:, 0] == answers)
        )

    def policy(self, width: int, layers: int, heads: int) -> ContextTable:
        thinking = self.thinking if self.fixed else None
        return ContextTable(width, layers, self.max_response_tokens, thinking)


class Uneven(RunningSum):
    """Responses of some 10, 40 or 170 tokens, as they come."""

    name = "uneven"
    thinking = (0.05, 3.0, 18.0)
    max_response_tokens = 384


class Long(RunningSum):
    """Responses of some 1,000 tokens, all but ten of them free.

    How long they are is fixed. Where it is learnt, it wanders until every response is cut off, or
    none is long any more, whatever the loss.
    """

    name = "long"
    thinking = (112.0,)
    fixed = True
    max_response_tokens = 2304
    recipe = MappingProxyType({"warm_steps": 200, "evaluate_every": 32, "last_evaluations": 2})
