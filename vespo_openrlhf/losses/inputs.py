"""What a policy loss is given, and how its terms are normalised.

Shapes in names and docstrings: B sequences (responses), A action tokens. A row of a (B, A)
batch is one sequence, packed or not: OpenRLHF's actor unpacks before it calls the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

LossAggMode = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"]
LOSS_AGG_MODES = get_args(LossAggMode)


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """One micro-batch; every field is given by its name, as four have the same shape.

    Args:
        log_probs: (B, A) log pi of the sampled tokens under the policy being trained, in nats.
            The only field that carries a gradient.
        advantages: (B, A) advantages per token, or (B,) or (B, 1) of whole sequences, which are
            repeated along A.
        action_mask: (B, A) bool, integer or float; non-zero marks an action token. What stands
            under the zeros (prompt, padding) is never read, whatever it holds.
        rollout_log_probs: (B, A) log-probs of the behaviour policy: what the engine reported
            when it sampled each token. None where the engine was not asked for them.
        old_log_probs: (B, A) log-probs the trainer recomputed before the update. None where that
            forward pass was skipped; few losses read them.
        dp_size: number of data-parallel ranks; undoes the gradient averaging across them.
        batch_num_tokens: action tokens in the whole optimizer step, over all ranks and
            micro-batches (OpenRLHF divides it by the accumulation steps, so it may be
            fractional). None: the tokens of this micro-batch.
        global_batch_size: the same for non-empty sequences.
        statistics: (K,) what a loss with batch statistics reads of the whole update, the sum of
            `PolicyLoss.statistics` over its micro-batches and ranks. None for all other losses.
        mean_over: (B,) by how many tokens the mean over a row's tokens divides. None: by its own;
            a turn's by those of its episode, see `split_turns`.

    Raises:
        ValueError: a tensor is not of the shape (B, A) of `log_probs`.
    """

    log_probs: Tensor
    advantages: Tensor
    action_mask: Tensor
    rollout_log_probs: Tensor | None = None
    old_log_probs: Tensor | None = None
    dp_size: int = 1
    batch_num_tokens: Tensor | float | None = None
    global_batch_size: Tensor | float | None = None
    statistics: Tensor | None = None
    mean_over: Tensor | None = None

    def __post_init__(self) -> None:
        shape = self.log_probs.shape
        if len(shape) != 2:
            raise ValueError(f"log_probs must be (B, A), got the shape {tuple(shape)}")
        if self.advantages.shape in (shape[:1], (shape[0], 1)):
            whole = self.advantages.reshape(-1, 1).expand(shape)
            object.__setattr__(self, "advantages", whole)  # the class is frozen
        for field in ("old_log_probs", "advantages", "action_mask", "rollout_log_probs"):
            tensor = getattr(self, field)
            if tensor is not None and tensor.shape != shape:
                raise ValueError(
                    f"{field} has the shape {tuple(tensor.shape)}, log_probs {tuple(shape)}: "
                    "both must be (B, A)"
                )

    @cached_property
    def mask(self) -> Tensor:
        """(B, A) bool: True on action tokens."""
        return self.action_mask.bool()

    @cached_property
    def num_tokens(self) -> Tensor:
        """(B,) int64: action tokens per sequence."""
        return self.mask.sum(dim=-1)


def update_statistics(name: str, inputs: LossInputs) -> Tensor:
    """The statistics of the whole update, for the loss `name`.

    Raises:
        ValueError: there are none. They are not made from the micro-batch at hand, or the loss
            would be another one for every micro-batch size.
    """
    if inputs.statistics is None:
        raise ValueError(
            f"{name} depends on all sequences of an update: give LossInputs.statistics the sum of "
            "the loss's `statistics` over the update's micro-batches and ranks, or call it on "
            "`with_own_statistics(inputs)` where one micro-batch is the whole update"
        )
    return inputs.statistics


def zero_masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values` (B, A) with an exact 0 outside `mask` (B, A), and a zero gradient there.

    A product with the mask would not do: 0 * nan and 0 * inf are nan.
    """
    return torch.where(mask, values, 0.0)


def sequence_scale(inputs: LossInputs, mode: str) -> Tensor:
    """What each token's loss counts for in the batch loss: (B,) float64, no gradient.

    - "token-mean": dp_size / batch_num_tokens for every sequence.
    - "seq-mean-token-mean": dp_size / (global_batch_size * tokens of the sequence), and 0 for a
      sequence without action tokens.
    - "seq-mean-token-sum": dp_size / global_batch_size, whatever the length: an expectation over
      sequences of a sum over tokens, as the policy gradient is written (VESPO's eq. 20).

    Where a batch total is None, the micro-batch's own total stands in and dp_size is left out,
    as in OpenRLHF's `aggregate_loss`. A batch without a single action token has the scale 0, so
    its loss and gradient are 0; OpenRLHF's is nan there.

    Raises:
        ValueError: unknown `mode`.
    """
    num_tokens = inputs.num_tokens.double()
    if mode == "token-mean":
        return _per_unit(inputs.batch_num_tokens, inputs.dp_size, num_tokens.sum()).expand_as(
            num_tokens
        )
    if mode in ("seq-mean-token-mean", "seq-mean-token-sum"):
        num_sequences = (num_tokens > 0).double().sum()
        per_sequence = _per_unit(inputs.global_batch_size, inputs.dp_size, num_sequences)
        divisor: Tensor | float = 1.0
        if mode == "seq-mean-token-mean":
            own = num_tokens if inputs.mean_over is None else inputs.mean_over.double()
            divisor = own.clamp(min=1)
        return torch.where(num_tokens > 0, per_sequence / divisor, 0.0)
    raise ValueError(f"loss_agg_mode must be one of {', '.join(LOSS_AGG_MODES)}, got {mode!r}")


def _per_unit(batch_total: Tensor | float | None, dp_size: int, own_total: Tensor) -> Tensor:
    """dp_size / batch_total, or 1 / own_total where there is no batch total; 0 for a 0 total."""
    if batch_total is None:
        total, dp_size = own_total, 1
    elif isinstance(batch_total, Tensor):
        total = batch_total.to(own_total)
    else:
        # full_like launches a fill; torch.tensor(number, device=...) would copy from the host.
        total = torch.full_like(own_total, batch_total)
    return torch.where(total > 0, dp_size / total, 0.0)


def aggregate(per_token_loss: Tensor, inputs: LossInputs, mode: str = "token-mean") -> Tensor:
    """The scalar batch loss of a (B, A) per-token loss; the gradient flows through.

    Summed over micro-batches and averaged over data-parallel ranks it is the same however the
    batch was split, as long as the batch totals in `inputs` are those of the whole step.

    Args:
        per_token_loss: (B, A); entries outside the action mask are not read, and get a zero
            gradient.
        inputs: the micro-batch; its mask and batch totals are used.
        mode: "token-mean", "seq-mean-token-mean" or "seq-mean-token-sum"; `sequence_scale` says
            what each divides by.

    Returns:
        0-dim, the dtype of `per_token_loss`.

    Raises:
        ValueError: unknown `mode`.
    """
    per_sequence = zero_masked(per_token_loss, inputs.mask).sum(dim=-1)
    return (per_sequence * sequence_scale(inputs, mode).to(per_sequence.dtype)).sum()


def sequence_share(chosen: Tensor, inputs: LossInputs) -> Tensor:
    """Share of the sequences with action tokens that are among these, (B,) bool: 0-dim."""
    present = inputs.num_tokens > 0
    return (chosen & present).sum() / present.sum().clamp(min=1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of a (B, A) tensor over the action tokens: 0-dim, 0 where there are none."""
    return zero_masked(values, mask).sum() / mask.sum().clamp(min=1)
