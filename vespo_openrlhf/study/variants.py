"""Candidates for a better VESPO. What came of them: docs/study/README.md.

Each is called as a user's own loss is, `vespo_openrlhf.study.variants:NAME`, and differs from VESPO
in the weight that goes into the kernel, or in the kernel's sharpness; both are set from the
mini-batch, and constants in the gradient like everything else about phi.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vespo_openrlhf.losses import LossInputs, vespo_kernel
from vespo_openrlhf.losses.diagnostics import Metrics
from vespo_openrlhf.losses.vcpo import effective_share
from vespo_openrlhf.losses.vespo import vespo_loss
from vespo_openrlhf.losses.weighted import sequence_weighted_loss


def largest_power(
    log_weights: Tensor, target: float, low: float, high: float, beside: Tensor | float = 0.0
) -> float:
    """The largest power in [low, high] at which w^power has an effective share of `target`, by
    bisection: the share falls as the power grows. `low` where even that has too little.

    Args:
        beside: log of a factor of each weight that is left as it is. With one the share may rise a
            little first, and what is found then is a power from which on it falls.
    """
    if effective_share(high * log_weights + beside) >= target:
        return high
    for _ in range(20):
        middle = (low + high) / 2
        enough = bool(effective_share(middle * log_weights + beside) >= target)
        low, high = (middle, high) if enough else (low, middle)
    return low


def tempered(inputs: LossInputs, *, target: float = 0.5) -> tuple[Tensor, Metrics]:
    """phi(W^b), b <= 1 the largest at which W^b keeps the effective sample size `target`.

    Fresh and well-matched batches have b = 1 and are VESPO's; a batch whose weights say little
    more than "something is off" is trained on nearly as if it were on-policy.
    """

    def phi_of(log_w: Tensor, advantage: Tensor) -> Tensor:
        return vespo_kernel(largest_power(log_w, target, 0.0, 1.0) * log_w, advantage)

    return sequence_weighted_loss(inputs, phi_of)


def one_sided(inputs: LossInputs) -> tuple[Tensor, Metrics]:
    """phi(max(W, 1)) where A >= 0, phi(W) where A < 0: a good response is not let go.

    W < 1 says that the policy has moved away from the response. Where that was right, a small phi
    keeps it so; where the response was good, it takes away the very gradient that would bring it
    back. Raising the likelihood of good responses needs no weight to stay stable (Le Roux et al.,
    arXiv 2503.14286), so only its excess, W > 1, is still damped.
    """

    def phi_of(log_w: Tensor, advantage: Tensor) -> Tensor:
        return vespo_kernel(torch.where(advantage >= 0, log_w.clamp(min=0), log_w), advantage)

    return sequence_weighted_loss(inputs, phi_of)


def pessimistic(inputs: LossInputs) -> tuple[Tensor, Metrics]:
    """`one_sided` for both signs, as it was when the second study ran it: by now `vespo` with the
    shape "pessimistic", see `vespo_kernel`."""
    return vespo_loss(inputs, shape="pessimistic")


def taper(inputs: LossInputs, *, power: float = 1.0) -> tuple[Tensor, Metrics]:
    """min(1, 1/W) where A >= 0, min(1, W) where A < 0, to a power: TOPR's taper on both signs.

    As `pessimistic`, but what is damped falls as a power of W and not as its exponential: the same
    shape with other coefficients.

    Args:
        power: of W; 0 is REINFORCE.
    """
    return vespo_loss(
        inputs, shape="pessimistic", c1_pos=-power, c2_pos=0.0, c1_neg=power, c2_neg=0.0
    )


def measured_kernel(
    inputs: LossInputs, *, shape: str = "published", target: float = 0.5
) -> tuple[Tensor, Metrics]:
    """(c1, c2) with nothing to tune: phi(W)^s, that is (s c1, s c2), s from what is measured.

    s is the largest in [1/2, 4] with which phi |A| has at least the share `target` of the effective
    sample size that |A| has by itself, over the responses that the kernel weighs (those it leaves
    at 1 say nothing of its sharpness): as sharp as the batch can pay for. At s = 1/2, c1 is 1, the
    least with phi/W bounded near 0.

    Args:
        shape: of the kernel, see `vespo_kernel`.
        target: a share, in (0, 1].
    """

    def phi_of(log_w: Tensor, advantage: Tensor) -> Tensor:
        phi = vespo_kernel(log_w, advantage, shape=shape)
        weighed = phi != 1
        log_size = advantage[weighed].double().abs().clamp(min=1e-30).log()
        wanted = target * float(effective_share(log_size))
        log_phi = phi[weighed].double().clamp(min=1e-300).log()
        return phi ** largest_power(log_phi, wanted, 0.5, 4.0, beside=log_size)

    return sequence_weighted_loss(inputs, phi_of)
