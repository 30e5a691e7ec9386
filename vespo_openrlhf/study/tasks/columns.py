"""`columns`: sums of two numbers of forty digits, worked column by column in some 400 tokens.

    3...7+5...6=    ->    7+6+0=13;...3+5+1=09;[0...3]

A column is a digit of each number, the carry, and their sum in two digits; the answer stands in
brackets at the end, and alone decides. Every response has the same places, so that a decoder with
learned positions finds what it needs by looking at fixed distances. Of a size for one GPU: see the
preset `gpu`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from types import MappingProxyType

import torch
from torch import Tensor

from vespo_openrlhf.study.tasks import digit_problems
from vespo_openrlhf.study.tasks.decoder import DecoderTask

VOCABULARY = (*"0123456789+=;[]", "<end>", "<pad>")
_PLUS, _EQUALS, _NEXT, _OPEN, _CLOSE, END, PAD = range(10, len(VOCABULARY))


class Columns(DecoderTask):
    """Sums of two numbers of `digits` digits, (digits of one, digits of the other) a problem."""

    name = "columns"
    learning_rate = 1e-4
    recipe = MappingProxyType(
        {"width": 512, "layers": 6, "heads": 8, "warm_steps": 2000, "warm_lr": 1e-3, "slip": 0.02}
    )
    vocabulary = VOCABULARY
    end = END
    pad = PAD
    digits = 40
    prompt_tokens = 2 * digits + 2
    max_response_tokens = 9 * digits + digits + 4

    def split(self, seed: int, sizes: Sequence[int]) -> list[list[tuple[int, ...]]]:
        return digit_problems(random.Random(f"columns-{seed}"), 2 * self.digits, sizes)

    def encode_prompts(self, problems: Sequence[tuple[int, ...]]) -> Tensor:
        one_BN, other_BN = torch.tensor(list(problems)).split(self.digits, dim=1)
        sign_B1 = torch.full((len(problems), 1), _PLUS)
        return torch.cat([one_BN, sign_B1, other_BN, sign_B1 + (_EQUALS - _PLUS)], dim=1)

    def encode_answers(self, problems: Sequence[tuple[int, ...]]) -> Tensor:
        """(B, digits + 4) int64: the last tokens of a right response."""
        return self._solutions(problems)[:, -(self.digits + 4) :]

    def demonstrations(self, problems: Sequence[tuple[int, ...]], slip: float, seed: int) -> Tensor:
        source = torch.Generator(torch.get_default_device()).manual_seed(seed + 1)
        solutions_BA = self._solutions(problems)
        slips = torch.rand(solutions_BA.shape, generator=source) < slip
        drawn = torch.randint(10, solutions_BA.shape, generator=source)
        slipped_BA = torch.where(slips & (solutions_BA < 10), drawn, solutions_BA)
        return torch.cat([self.encode_prompts(problems), slipped_BA], dim=1)

    def _solutions(self, problems: Sequence[tuple[int, ...]]) -> Tensor:
        """(B, A) int64, without slips."""
        one_BN, other_BN = torch.tensor(list(problems)).split(self.digits, dim=1)
        carry_B = torch.zeros(len(problems), dtype=torch.int64)
        parts, answer = [], []
        for place in reversed(range(self.digits)):
            one_B, other_B = one_BN[:, place], other_BN[:, place]
            sum_B = one_B + other_B + carry_B
            plus_B = torch.full_like(sum_B, _PLUS)
            column = [one_B, plus_B, other_B, plus_B, carry_B, plus_B + (_EQUALS - _PLUS)]
            parts += [*column, sum_B // 10, sum_B % 10, plus_B + (_NEXT - _PLUS)]
            answer.append(sum_B % 10)
            carry_B = sum_B // 10
        signs = [torch.full_like(carry_B, token) for token in (_OPEN, _CLOSE, END)]
        parts += [signs[0], carry_B, *reversed(answer), *signs[1:]]
        return torch.stack(parts, dim=1)
