"""Distillation as an advantage: what a teacher thinks of each token that was sampled.

On-policy distillation minimises the reverse KL, E_pi[log pi - log pi_T], on the states that the
student visits. For a token given what stands before it, its gradient is that of a policy gradient
with the advantage

    A_t = log pi_T(y_t | y_<t) - log pi(y_t | y_<t)                                        (reverse)

held constant (Agarwal et al., arXiv 2306.13649; Lu, "On-policy distillation", 2025): the future of
a token is left out, as with a discount of 0. Whatever policy loss follows weighs it: VESPO by
phi(W), so that samples of an older student count as far as the present one would still give them.

Where the *teacher* has sampled, E_T[-log pi] is the forward KL up to a constant, and its gradient a
policy gradient with

    A_t = 1                                                                                (forward)

and the weight 1. With W = pi/pi_T, phi(W) stands between it (phi = 1) and the reverse KL's estimate
on the teacher's samples (phi = W, A_t as above).

The expectation of the reverse advantage over the token itself can be taken exactly, where the
teacher's whole distribution is at hand: that is `KL(pi || pi_T)` of a position, with its gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..options import Options, option
from .inputs import LossInputs, aggregate, masked_mean

#: In the place of a model: the policy that sampled the recorded data.
RECORDED = "recorded"


@dataclass(frozen=True)
class DistillOptions(Options):
    """`--distill.*`."""

    teacher: str | None = option(
        None,
        "learn from this model, of the student's tokenizer: its log-probs of the sampled tokens "
        "are computed where a reference model's would be; or recorded: from the policy that "
        "sampled --offline.data, whose log-probs are there",
    )
    coef: float = option(
        1.0,
        "share of the teacher in a token's advantage; the rest is that of the reward. At 1 no "
        "reward is needed",
        above=0,
        at_most=1,
    )
    direction: Literal["reverse", "forward"] = option(
        "reverse",
        "a token's advantage: log pi_T - log pi, the reverse KL's, which is for samples of the "
        "student, and weighed for any others (reverse); or 1, the forward KL's, which is for "
        "samples of the teacher (forward)",
    )
    estimator: Literal["sampled", "full"] = option(
        "sampled",
        "of the reverse KL of a position: from the token that was sampled (sampled), or over the "
        "whole vocabulary (full): less noise, for the teacher's hidden states, which travel to the "
        "trainer, and its output layer, which every rank then holds",
    )


@torch.no_grad()
def distilled_advantages(
    advantages: Tensor, log_probs: Tensor, teacher_log_probs: Tensor, options: DistillOptions
) -> Tensor:
    """(B, A) advantages with the teacher's share in them.

    Args:
        advantages: (B, A), of the reward.
        log_probs: (B, A) of the policy as it is now: the advantage is the present one's, however
            old the sample.
        teacher_log_probs: (B, A) of the teacher, in nats, on the same tokens.
    """
    if options.direction == "forward":
        teachers = torch.ones_like(advantages)
    else:
        teachers = teacher_log_probs.to(log_probs.dtype) - log_probs
    if options.coef == 1:
        return teachers
    return (1 - options.coef) * advantages + options.coef * teachers


def exact_reverse_kl(
    inputs: LossInputs, phi: Tensor, kl: Tensor, teachers: Tensor, coef: float, mode: str
) -> Tensor:
    """What is to be added to a loss of the sampled estimate, to make it that of `kl`: 0-dim.

    A loss -c A log pi, c = phi, has taken -c (coef A_T) grad log pi for the teacher's share. This
    takes it back, and adds c coef grad KL. Its value is that of the KL's share less the estimate's.

    Args:
        inputs: of the loss.
        phi: (B,) what the loss has weighed each sequence by.
        kl: (B, A) KL(pi || pi_T) of each position, with a gradient.
        teachers: (B, A) the sampled advantages log pi_T - log pi, a constant.
        coef: the teacher's share.
        mode: of the loss, see `aggregate`.
    """
    weight = phi[:, None].detach().to(kl.dtype)
    exact = kl + teachers.to(kl.dtype) * inputs.log_probs.to(kl.dtype)
    return aggregate(coef * weight * exact, inputs, mode).float()


@torch.no_grad()
def distillation_metrics(
    log_probs: Tensor, teacher_log_probs: Tensor, action_mask: Tensor, kl: Tensor | None = None
) -> dict[str, Tensor]:
    """0-dim: `teacher_kl`, mean reverse KL of a position, or where that is not computed, its
    estimate from the student's samples, log pi - log pi_T; and `teacher_log_prob`, mean log pi_T.
    """
    mask = action_mask.bool()
    return {
        "teacher_kl": masked_mean(log_probs - teacher_log_probs if kl is None else kl, mask),
        "teacher_log_prob": masked_mean(teacher_log_probs, mask),
    }
