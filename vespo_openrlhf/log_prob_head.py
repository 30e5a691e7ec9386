"""Log-probs of given tokens, and entropies, from last hidden states, without the logits.

The logits of 16,384 tokens over 152,000 words are 10 GB in float32, and a policy update by way of
them holds several such tensors. Here they exist in blocks: the forward pass goes over the tokens
and keeps two numbers of each, the backward pass goes over the vocabulary and makes each block of
logits again. So every element of the weight's gradient is one sum over all tokens, as without
blocks, and nothing of the vocabulary's size is added up but in the matrix product itself.

Values and gradients are those of OpenRLHF's `log_probs_from_logits` and `compute_entropy` on the
output of an `nn.Linear`: logits in the weight's dtype, everything after them in float32. What it
costs is one more product, four where there were three; what it saves is memory traffic.

Considered in its place, and why not:

- `torch.nn.functional.linear_cross_entropy` (torch 2.13): no temperature, no soft cap, no entropy,
  and in bfloat16 its losses are bfloat16, three digits of a log-prob.
- liger-kernel's fused linear cross entropy: soft caps, and per-token losses in recent versions, but
  no temperature and no entropy, and Triton alone. Its blocks are of tokens, so the gradient of the
  weight is added up block by block, in the weight's dtype unless given a float32 copy. Its fused
  GRPO losses bring the loss with them.
- cut-cross-entropy: per-token losses and soft caps, but no temperature and no gradient of an
  entropy; Triton alone, and a licence of its own.

Shapes: N tokens, D hidden width, V vocabulary.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Logits that exist at once. 256 MiB in bfloat16, beside at most twice that in float32; blocks of
#: this size keep matrix units busy.
BLOCK = 2**27
# Blocks are multiples of this: matrix products want aligned rows.
_ALIGNMENT = 64


def token_log_probs(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    tokens_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    entropy: bool = False,
    block: int = BLOCK,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs of `tokens_N` under softmax(cap(hidden weight^T + bias) / temperature).

    Args:
        hidden_ND: (N, D), of the weight's dtype.
        weight_VD: (V, D), the output layer's; an embedding where these are tied.
        tokens_N: (N,) int64, below V.
        bias_V: (V,), the output layer's.
        temperature: above 0.
        soft_cap: c of c tanh(logits / c), taken in the logits' dtype as transformers does; above 0.
        entropy: whether to compute it, too.
        block: logits that exist at once, at least; a row or a column does in any case.

    Returns:
        (N,) log-probs and (N,) entropies (or None) in nats, float32 (float64 for float64 inputs),
        with gradients to hidden, weight and bias. There is no second derivative.

    Raises:
        ValueError: temperature or soft cap is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, not {temperature:g}")
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"soft_cap must be above 0, not {soft_cap:g}")
    log_probs, entropies = _TokenLogProbs.apply(
        hidden_ND, weight_VD, bias_V, tokens_N, temperature, soft_cap, entropy, block
    )
    return log_probs, entropies if entropy else None


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        temperature: float,
        soft_cap: float | None,
        entropy: bool,
        block: int,
    ) -> tuple[Tensor, Tensor]:
        parts = [
            _fused(_statistics, _logits(rows, weight, bias), chosen, temperature, soft_cap, entropy)
            for rows, chosen in zip(
                hidden.split(_step(block, len(weight))),
                tokens.split(_step(block, len(weight))),
                strict=True,
            )
        ]
        log_probs, log_sums, entropies = (torch.cat(part) for part in zip(*parts, strict=True))
        # The weight itself is saved, not a view of it: under ZeRO-3 its storage is let go between
        # the passes, and the parameter is what DeepSpeed fills again.
        ctx.save_for_backward(hidden, weight, bias, tokens, log_probs, log_sums, entropies)
        ctx.temperature, ctx.soft_cap, ctx.block = temperature, soft_cap, block
        ctx.set_materialize_grads(False)
        if not entropy:
            ctx.mark_non_differentiable(entropies)
        return log_probs, entropies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_entropy: Tensor | None) -> tuple[Any, ...]:
        hidden, weight, bias, tokens, log_probs, log_sums, entropies = ctx.saved_tensors
        to_hidden, to_weight, to_bias = ctx.needs_input_grad[:3]
        wide = log_probs.dtype
        if grad is None:
            grad = torch.zeros_like(log_probs)
        grad_hidden = hidden.new_zeros(hidden.shape, dtype=wide) if to_hidden else None
        grad_weight = torch.empty_like(weight) if to_weight else None
        grad_bias = bias.new_empty(len(bias), dtype=wide) if to_bias else None
        to_chosen = _gradient_to_chosen(
            log_probs, log_sums, grad, grad_entropy, entropies, ctx.temperature, ctx.soft_cap
        ).to(hidden.dtype)[:, None]
        step = _step(ctx.block, len(hidden))
        for start in range(0, len(weight), step):
            columns = slice(start, min(start + step, len(weight)))
            part = weight[columns]
            logits = _logits(hidden, part, None if bias is None else bias[columns])
            gradient = _fused(
                _gradient,
                logits,
                log_sums,
                grad,
                grad_entropy,
                entropies,
                ctx.temperature,
                ctx.soft_cap,
            )
            place = (tokens - start)[:, None]
            inside = (place >= 0) & (place < gradient.shape[1])
            place = place.clamp(0, gradient.shape[1] - 1)
            chosen = torch.where(inside, to_chosen, gradient.gather(1, place))
            gradient.scatter_(1, place, chosen)
            if grad_hidden is not None:
                _add_product(grad_hidden, gradient, part)
            if grad_weight is not None:
                torch.mm(gradient.t(), hidden, out=grad_weight[columns])
            if grad_bias is not None:
                torch.sum(gradient, 0, dtype=wide, out=grad_bias[columns])
        return (
            None if grad_hidden is None else grad_hidden.to(hidden.dtype),
            grad_weight,
            None if grad_bias is None else grad_bias.to(bias.dtype),
            *(None,) * 5,
        )


def _step(block: int, other: int) -> int:
    """Rows of a block whose other side is `other`."""
    step = max(1, block // max(other, 1))
    return step // _ALIGNMENT * _ALIGNMENT if step > _ALIGNMENT else step


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return hidden @ weight.t()
    return torch.addmm(bias, hidden, weight.t())


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left right, in total's dtype where the machine has such a product."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    elif left.is_cuda and torch.cuda.get_device_capability(left.device) >= (8, 0):
        total.add_(torch.mm(left, right, out_dtype=total.dtype))
    else:
        total.add_(torch.mm(left, right))


def _scale(logits: Tensor, temperature: float, soft_cap: float | None) -> Tensor:
    """What softmax is taken of, in float32 at least. `logits` may be overwritten."""
    if soft_cap is not None:
        logits = torch.tanh_(logits.div_(soft_cap)).mul_(soft_cap)
    scaled = logits if logits.dtype == torch.float64 else logits.float()
    return scaled if temperature == 1.0 else scaled.div_(temperature)


def _statistics(
    logits: Tensor, tokens: Tensor, temperature: float, soft_cap: float | None, entropy: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-prob of its token, log of the sum of exponentials and entropy, (rows,) each.

    Without `entropy` the last has no elements. `logits` is overwritten.
    """
    scaled = _scale(logits, temperature, soft_cap)
    chosen = scaled.gather(1, tokens[:, None])[:, 0]
    greatest = scaled.amax(1)
    scaled.sub_(greatest[:, None])
    if entropy:
        powers = scaled.exp()
        total = powers.sum(1)
        entropies = total.log() - powers.mul_(scaled).sum(1) / total
    else:
        total = scaled.exp_().sum(1)
        entropies = total.new_empty(0)
    log_sums = greatest + total.log()
    return chosen - log_sums, log_sums, entropies


def _gradient(
    logits: Tensor,
    log_sums: Tensor,
    grad: Tensor,
    grad_entropy: Tensor | None,
    entropies: Tensor,
    temperature: float,
    soft_cap: float | None,
) -> Tensor:
    """Gradient to a block of columns of the logits, in their dtype. `logits` is overwritten.

    With p the probabilities, g and h the gradients to log-prob and entropy H, the gradient to the
    scaled logits is g (1[token] - p) - h p (log p + H), here without the 1[token].
    """
    dtype = logits.dtype
    scaled = _scale(logits, temperature, soft_cap)
    slope = None
    if soft_cap is not None:
        # d/dx c tanh(x / c) = 1 - (its value / c)^2; the value is read before it is overwritten.
        slope = 1 - (scaled * (temperature / soft_cap)).square_()
    grad = (grad / temperature)[:, None]
    log_p = scaled.sub_(log_sums[:, None])
    if grad_entropy is None:
        result = log_p.exp_().mul_(-grad)
    else:
        grad_entropy = (grad_entropy / temperature)[:, None]
        p = log_p.exp()
        result = log_p.add_(entropies[:, None]).mul_(-grad_entropy).sub_(grad).mul_(p)
    if slope is not None:
        result.mul_(slope)
    return result.to(dtype)


def _gradient_to_chosen(
    log_probs: Tensor,
    log_sums: Tensor,
    grad: Tensor,
    grad_entropy: Tensor | None,
    entropies: Tensor,
    temperature: float,
    soft_cap: float | None,
) -> Tensor:
    """What `_gradient` leaves out at each token's own logit, all of it: (N,), in float32."""
    p = log_probs.exp()
    result = grad * (1 - p)
    if grad_entropy is not None:
        result = result - grad_entropy * p * (log_probs + entropies)
    if soft_cap is not None:
        scaled = log_probs + log_sums
        result = result * (1 - (scaled * (temperature / soft_cap)).square())
    return result / temperature


_left_alone: set[Callable[..., Any]] = set()


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def _fused(function: Callable[..., Any], logits: Tensor, *others: Any) -> Any:
    """Call it; on CUDA as one kernel, which reads a block of logits once and not six times.

    Where Triton or its compiler does not work, the plain function does, with a warning.
    """
    if not logits.is_cuda or function in _left_alone:
        return function(logits, *others)
    try:
        return _compiled(function)(logits, *others)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        warnings.warn(f"{function.__name__} is not compiled, and slower: {error}", stacklevel=2)
        _left_alone.add(function)
        return function(logits, *others)
