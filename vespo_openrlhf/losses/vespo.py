"""The VESPO loss: arXiv 2602.10693."""

from __future__ import annotations

from torch import Tensor

from .diagnostics import Metrics
from .inputs import LossInputs
from .kernel import vespo_kernel
from .ratios import normalise_log_weight
from .weighted import sequence_weighted_loss


def vespo_loss(
    inputs: LossInputs,
    *,
    c1_pos: float = 2.0,
    c2_pos: float = 3.0,
    c1_neg: float = 3.0,
    c2_neg: float = 2.0,
    shape: str = "published",
    length_normalisation: str = "none",
    anchor: str = "rollout",
    tis_cap: float | None = None,
    loss_agg_mode: str = "token-mean",
) -> tuple[Tensor, Metrics]:
    """VESPO: -phi(W) A log pi summed over action tokens, phi(W) = W^c1 exp(c2 (1 - W)) constant.

    The gradient is E_mu[phi(W) A grad log pi], of arXiv 2602.10693. W is the product of all pi/mu;
    anchored on the rollout log-probs it holds the lag and the engine's mismatch at once, so no
    separate correction for the mismatch may be multiplied in.

    Args:
        inputs: the micro-batch.
        c1_pos, c2_pos: the kernel's exponents where A >= 0; their ranges are those of
            `KernelOptions`.
        c1_neg, c2_neg: the same where A < 0. Ablations: (2, 3) or (3, 2) for both signs.
        shape: "published", or "pessimistic": phi(max(W, 1)) where A >= 0 and phi(min(W, 1)) where
            A < 0, see `vespo_kernel`.
        length_normalisation: "none", or the ablations "sqrt" (log W / sqrt(T)) and "full"
            (log W / T).
        anchor: what stands for the behaviour policy: "rollout" (the engine's log-probs), or
            "old" (the trainer's recomputation, blind to lag in asynchronous training).
        tis_cap: with anchor="old", W also holds each token's old/rollout, at most this: see
            `sequence_log_weight`. verl's default is 2, TRL's 3.
        loss_agg_mode: see `aggregate`; the published runs use "token-mean", and
            "seq-mean-token-sum" is eq. 20 to the letter.

    Returns:
        0-dim loss and metrics: per sequence `log_w` (never normalised), `phi`, `advantage`.

    Raises:
        ValueError: an option out of range, or the anchor's log-probs are not in the batch.
    """

    def phi(log_w: Tensor, advantage: Tensor) -> Tensor:
        normalised = normalise_log_weight(log_w, inputs.num_tokens, length_normalisation)
        return vespo_kernel(normalised, advantage, c1_pos, c2_pos, c1_neg, c2_neg, shape)

    return sequence_weighted_loss(
        inputs, phi, anchor=anchor, tis_cap=tis_cap, loss_agg_mode=loss_agg_mode
    )
