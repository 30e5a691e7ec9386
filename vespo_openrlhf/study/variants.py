"""Candidates for a better VESPO, as the losses of the preset `variants`. What came of them:
docs/study/README.md.

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
from vespo_openrlhf.losses.weighted import sequence_weighted_loss


def largest_power(log_weights: Tensor, target: float, low: float, high: float) -> float:
    """The largest power in [low, high] at which w^power has an effective share of `target`.

    The share falls as the power grows; `low` where even that has too little.
    """
    if effective_share(high * log_weights) >= target:
        return high
    for _ in range(20):
        middle = (low + high) / 2
        enough = bool(effective_share(middle * log_weights) >= target)
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


def shrunk(inputs: LossInputs, *, mismatch_std: float) -> tuple[Tensor, Metrics]:
    """phi(W^b), b = 1 - (what the mismatch adds to the spread of log W) / (its whole spread).

    If each reported log mu is off by independent noise of standard deviation `mismatch_std`,
    log W of T tokens is off by a variance T mismatch_std^2, and this b gives the best linear
    guess of the true log W from the observed one (empirical Bayes). The noise is what |log W|
    shows at lag 0, where the true W is 1.

    Args:
        mismatch_std: nats per token.
    """

    def phi_of(log_w: Tensor, advantage: Tensor) -> Tensor:
        noise = inputs.num_tokens.double().mean() * mismatch_std**2
        share = noise / log_w.square().mean().clamp(min=1e-12)
        return vespo_kernel((1 - share).clamp(min=0) * log_w, advantage)

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


def _gone(log_w: Tensor, advantage: Tensor) -> Tensor:
    """How far the policy has gone where the advantage sends it, in nats: s max(0, s log W), s = 1
    where A >= 0 and -1 where A < 0. 0 where it has gone the other way."""
    return torch.where(advantage >= 0, log_w.clamp(min=0), log_w.clamp(max=0))


def pessimistic(inputs: LossInputs) -> tuple[Tensor, Metrics]:
    """phi(max(W, 1)) where A >= 0, phi(min(W, 1)) where A < 0, with the published kernel.

    `one_sided` for both signs. A weight other than 1 only says that the policy has moved. Where it
    has moved as the advantage asks, the rest of the step is damped, as PPO's min stops it; where it
    has moved the other way, the gradient would bring it back, and is kept whole. The weight is at
    most 1, falls from there on one side, and is VESPO's on that side.
    """

    def phi_of(log_w: Tensor, advantage: Tensor) -> Tensor:
        return vespo_kernel(_gone(log_w, advantage), advantage)

    return sequence_weighted_loss(inputs, phi_of)


def taper(inputs: LossInputs, *, power: float = 1.0) -> tuple[Tensor, Metrics]:
    """min(1, 1/W) where A >= 0, min(1, W) where A < 0, to a power: TOPR's taper on both signs.

    As `pessimistic`, but what is damped falls as a power of W and not as its exponential.

    Args:
        power: of W; 0 is REINFORCE.
    """

    def phi_of(log_w: Tensor, advantage: Tensor) -> Tensor:
        return (-power * _gone(log_w, advantage).abs()).exp()

    return sequence_weighted_loss(inputs, phi_of)


def adaptive_kernel(inputs: LossInputs, *, target: float = 0.5) -> tuple[Tensor, Metrics]:
    """phi(W)^s, that is (s c1, s c2), s in [1/2, 2] the largest with which phi^s keeps the
    effective sample size `target`; at s = 1/2, c1 is 1, the least with phi/W bounded near 0."""

    def phi_of(log_w: Tensor, advantage: Tensor) -> Tensor:
        phi = vespo_kernel(log_w, advantage)
        sharpness = largest_power(phi.double().clamp(min=1e-30).log(), target, 0.5, 2.0)
        return phi**sharpness

    return sequence_weighted_loss(inputs, phi_of)
