"""KL of a student's distribution over the next token to a teacher's, over the whole vocabulary,
from last hidden states, a block of logits at a time.

As in `log_prob_head`, all logits never exist at once: the forward pass keeps two numbers a token,
and the backward pass makes each block again. What must be there is the teacher's hidden state of
each token and its output layer's weight.

Shapes: N tokens, D and E hidden widths of student and teacher, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vespo_openrlhf.log_prob_head import BLOCK


def reverse_kl(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    teacher_hidden_NE: Tensor,
    teacher_weight_VE: Tensor,
    tokens_N: Tensor,
    *,
    temperature: float = 1.0,
    block: int = BLOCK,
) -> tuple[Tensor, Tensor]:
    """KL(pi || pi_T) of each position, and what the teacher gives the token that was sampled.

    Output layers of one tokenizer may be padded to different numbers of rows: those that both have
    are compared.

    Args:
        hidden_ND: (N, D) the student's.
        weight_VD: (V, D) its output layer's; with a gradient.
        teacher_hidden_NE: (N, E) the teacher's, on the same tokens.
        teacher_weight_VE: (V', E) its output layer's.
        tokens_N: (N,) int64 sampled tokens.
        temperature: of both, above 0.
        block: logits that exist at once, at least; those of one token do in any case.

    Returns:
        (N,) KL in nats, float32 (float64 for float64 inputs), with gradients to the student's
        hidden states and weight; and (N,) log pi_T of the tokens, without. There is no second
        derivative.
    """
    kl, told = _ReverseKL.apply(
        hidden_ND, weight_VD, teacher_hidden_NE, teacher_weight_VE, tokens_N, temperature, block
    )
    return kl, told


class _ReverseKL(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        teacher_hidden: Tensor,
        teacher_weight: Tensor,
        tokens: Tensor,
        temperature: float,
        block: int,
    ) -> tuple[Tensor, Tensor]:
        ctx.columns = min(len(weight), len(teacher_weight))
        ctx.temperature, ctx.rows = temperature, max(1, block // max(ctx.columns, 1))
        found = []
        for part in range(0, len(hidden), ctx.rows):
            rows = slice(part, part + ctx.rows)
            log_p = _log_probs(hidden[rows], weight, ctx.columns, temperature)
            log_q = _log_probs(teacher_hidden[rows], teacher_weight, ctx.columns, temperature)
            kl = (log_p.exp() * (log_p - log_q)).sum(1)
            found.append((kl, log_q.gather(1, tokens[rows, None])[:, 0]))
        wide = _wide(hidden.dtype)
        kl, told = (
            torch.cat(parts) if found else hidden.new_empty(0, dtype=wide)
            for parts in (zip(*found, strict=True) if found else ((), ()))
        )
        # The weight itself, not a part of it: under ZeRO-3 the parameter is what is filled again.
        ctx.save_for_backward(hidden, weight, teacher_hidden, teacher_weight, kl)
        ctx.mark_non_differentiable(told)
        return kl, told

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
        hidden, weight, teacher_hidden, teacher_weight, kl = ctx.saved_tensors
        to_hidden, to_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.empty_like(hidden) if to_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=kl.dtype) if to_weight else None
        for part in range(0, len(hidden), ctx.rows):
            rows = slice(part, part + ctx.rows)
            log_p = _log_probs(hidden[rows], weight, ctx.columns, ctx.temperature)
            gap = log_p - _log_probs(
                teacher_hidden[rows], teacher_weight, ctx.columns, ctx.temperature
            )
            # d KL / d logits = p (log p - log q - KL)
            slope = log_p.exp_().mul_(gap.sub_(kl[rows, None]))
            slope = slope.mul_((grad[rows] / ctx.temperature)[:, None]).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = slope @ weight[: ctx.columns]
            if grad_weight is not None:
                grad_weight[: ctx.columns] += slope.t() @ hidden[rows]
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            *(None,) * 5,
        )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _log_probs(hidden: Tensor, weight: Tensor, columns: int, temperature: float) -> Tensor:
    """(rows, columns) under softmax(hidden weight^T / temperature), in float32 at least."""
    logits = hidden.to(weight.dtype) @ weight[:columns].t()
    return (logits.to(_wide(logits.dtype)) / temperature).log_softmax(1)
