"""VESPO's kernel phi(W): how much a sequence with importance weight W counts in the gradient.

arXiv 2602.10693: phi(W) = W^c1 exp(c2 (1 - W)), phi(1) = 1, with one (c1, c2) for advantages
>= 0 and another for advantages < 0. And phi of one side of W alone, which is this project's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..options import Options, option

# exp(700) is still finite in float64; exp(c2 * (1 - exp(700))) is 0 for any c2 worth the name.
# Without the bounds, log W = inf would give inf - inf, and log W = -inf with c1 = 0 would be nan.
_LOG_W_LIMITS = (-torch.finfo(torch.float64).max, 700.0)


@dataclass(frozen=True)
class KernelOptions(Options):
    """The shape of phi and its four exponents, checked. Defaults: the paper's.

    Published: phi, and with it E_mu[phi^2], is bounded for every c1 >= 0 and c2 > 0
    (`kernel_bound`). What c1 >= 1 adds is a bound on phi/W near W = 0, which the paper's Theorem
    3.1 needs. The gradient E_mu[phi A grad log pi] is E_pi[(phi/W) A grad log pi]: below 1 the
    responses that the policy has all but given up weigh without bound against what it samples
    itself. At c1 = 0 they weigh more in the update, too, than fresh ones: phi falls from exp(c2)
    at W = 0 to 1 at W = 1.

    Pessimistic: phi is at most 1 and falls with every step away where c1_pos <= c2_pos and
    c1_neg >= c2_neg, c2 >= 0. Among these are min(1, 1/W) and min(1, W), the taper of
    docs/study/README.md, with (-1, 0) and (1, 0); TOPR with (0, 0) and (1, 0); and REINFORCE with
    zeros. phi/W is not bounded where A >= 0, whatever c1: it keeps those responses.

    Raises:
        ValueError: a coefficient is not finite, or out of the range of the shape. Published: c1 < 0
            (phi is then unbounded near W = 0) or c2 <= 0 (unbounded for large W). Pessimistic: as
            above. The message begins with its name.
    """

    c1_pos: float = option(
        2.0,
        "power of W where the advantage is >= 0; 0 or more, and below 1 what the policy has given "
        "up weighs without bound against what it samples itself. Pessimistic: at most c2_pos",
        below=math.inf,
    )
    c2_pos: float = option(
        3.0,
        "decay in W where the advantage is >= 0; above 0. Pessimistic: 0 or more",
        below=math.inf,
    )
    c1_neg: float = option(
        3.0,
        "power of W where the advantage is < 0; as c1_pos. Pessimistic: at least c2_neg",
        below=math.inf,
    )
    c2_neg: float = option(2.0, "decay in W where the advantage is < 0; as c2_pos", below=math.inf)
    shape: Literal["published", "pessimistic"] = option(
        "published",
        "of phi: published (the paper's), or pessimistic (phi(max(W, 1)) where the advantage is "
        ">= 0 and phi(min(W, 1)) where it is < 0: a response is held back only where the policy "
        "has gone where the advantage sends it, as with PPO's min; with c1 -1 and 1 and c2 0 and 0 "
        "it is the taper of docs/study/README.md)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shape == "published":
            power = (
                "below it a response counts the more, without bound, the less likely the policy "
                "has made it"
            )
            decay = "it is what holds back large importance weights"
            for c1, c2 in (("c1_pos", "c2_pos"), ("c1_neg", "c2_neg")):
                self._require(c1, getattr(self, c1) >= 0, "at least 0", power)
                self._require(c2, getattr(self, c2) > 0, "above 0", decay)
            return
        rises = "or phi rises above 1 where the policy has gone where the advantage sends it"
        self._require("c1_pos", math.isfinite(self.c1_pos), "finite", "it is a power")
        self._require("c2_pos", self.c2_pos >= max(0, self.c1_pos), "at least 0 and c1_pos", rises)
        self._require("c2_neg", self.c2_neg >= 0, "at least 0", "it holds back")
        self._require("c1_neg", self.c1_neg >= self.c2_neg, "at least c2_neg", rises)

    def _require(self, name: str, holds: bool, what: str, because: str) -> None:
        if not holds:
            raise ValueError(f"{name} must be {what}, not {getattr(self, name)}: {because}")


@torch.no_grad()
def vespo_kernel(
    log_w: Tensor,
    advantages: Tensor,
    c1_pos: float = 2.0,
    c2_pos: float = 3.0,
    c1_neg: float = 3.0,
    c2_neg: float = 2.0,
    shape: str = "published",
) -> Tensor:
    """phi(W) = exp(c1 log W + c2 (1 - W)), the paper's kernel, from log W.

    Of the shape "pessimistic" it is phi(max(W, 1)) where the advantage is >= 0 and phi(min(W, 1))
    where it is < 0. A weight other than 1 says that the policy has moved. Where it has moved as
    the advantage asks, the rest of the step is damped, as PPO's min stops it; where it has moved
    the other way, the gradient would bring it back, and counts whole. It is no solution of the
    paper's variational problem: its reason is the one above, and runs.

    Finite for every log W, infinite ones included, and within 1e-6 of the true value wherever
    that is a normal float32. It never carries a gradient: phi is a coefficient.

    Args:
        log_w: (B,) log importance weights, in nats.
        advantages: (B,) sequence advantages; only the sign is used, and 0 counts as positive.
        c1_pos, c2_pos: exponents where the advantage is >= 0.
        c1_neg, c2_neg: exponents where it is < 0.
        shape: "published" or "pessimistic".

    Returns:
        (B,) phi, float64 for a float64 `log_w`, else float32.

    Raises:
        ValueError: a coefficient out of range, or another shape; see `KernelOptions`.
    """
    KernelOptions(c1_pos, c2_pos, c1_neg, c2_neg, shape)  # type: ignore[arg-type]  # it is checked
    # The exponent reaches about 90 in magnitude before phi leaves float32: float32 arithmetic
    # would round it by 1e-5, which is then phi's relative error. (B,) numbers in float64 are free.
    log_w64 = log_w.double().clamp(*_LOG_W_LIMITS)
    positive = advantages >= 0
    if shape == "pessimistic":
        log_w64 = torch.where(positive, log_w64.clamp(min=0), log_w64.clamp(max=0))
    c1 = torch.full_like(log_w64, c1_neg).masked_fill_(positive, c1_pos)
    c2 = torch.full_like(log_w64, c2_neg).masked_fill_(positive, c2_pos)
    # expm1 keeps the digits of W - 1 near W = 1, where exp(log_w) - 1 cancels.
    phi = torch.exp(c1 * log_w64 - c2 * torch.expm1(log_w64))
    return phi if log_w.dtype == torch.float64 else phi.float()


def kernel_bound(c1: float, c2: float) -> float:
    """The maximum of phi over all W >= 0: (c1/c2)^c1 exp(c2 - c1), reached at W = c1/c2.

    For c1 >= 0 and c2 > 0; with c1 = 0 it is exp(c2), at W = 0.
    """
    return math.exp((c1 * math.log(c1 / c2) if c1 else 0.0) + c2 - c1)
