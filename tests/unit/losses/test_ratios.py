import dataclasses
import math

import mpmath
import pytest
import torch

from vespo_openrlhf.losses import LossInputs
from vespo_openrlhf.losses.ratios import (
    anchor_log_probs,
    normalise_log_weight,
    sequence_advantage,
    sequence_log_weight,
    token_log_ratio,
    token_ratio,
)


def inputs(log_probs, rollout, mask=None, advantages=None):
    log_probs, rollout = torch.as_tensor(log_probs), torch.as_tensor(rollout)
    mask = torch.ones(log_probs.shape, dtype=torch.bool) if mask is None else torch.tensor(mask)
    advantages = torch.ones(log_probs.shape) if advantages is None else torch.tensor(advantages)
    return LossInputs(
        log_probs=log_probs, advantages=advantages, action_mask=mask, rollout_log_probs=rollout
    )


def test_sum_over_action_tokens_never_divided_by_length():
    batch = inputs([[-1.0, -2.0, -5.0]], [[-1.5, -2.25, 7.0]], [[True, True, False]])
    assert sequence_log_weight(batch, "rollout").tolist() == [0.75]
    assert token_log_ratio(batch, "rollout").tolist() == [[0.5, 0.25, 0.0]]


def test_long_sequence_keeps_its_digits():
    """65,536 tokens: float32 sums of log-probs near 1e5 would be off by 1e-2 and more."""
    generator = torch.Generator().manual_seed(0)
    log_probs = -4 * torch.rand(1, 65_536, generator=generator)
    rollout = log_probs + 0.01 * torch.randn(1, 65_536, generator=generator)
    exact = mpmath.fsum(log_probs[0].tolist()) - mpmath.fsum(rollout[0].tolist())
    batch = inputs(log_probs, rollout)
    assert abs(sequence_log_weight(batch, "rollout").item() - exact) < 1e-9


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, 1e38])
def test_masked_tokens_are_not_read(garbage):
    batch = inputs(
        [[garbage, -1.0, garbage]], [[garbage, -1.5, garbage]], [[False, True, False]],
        [[garbage, 2.0, garbage]],
    )  # fmt: skip
    batch.log_probs.requires_grad_()
    assert sequence_log_weight(batch, "rollout").tolist() == [0.5]
    assert sequence_advantage(batch).tolist() == [2.0]
    ratio = token_ratio(token_log_ratio(batch, "rollout"))
    ratio.sum().backward()
    torch.testing.assert_close(ratio, torch.tensor([[1.0, math.exp(0.5), 1.0]]))
    assert batch.log_probs.grad[0, [0, 2]].tolist() == [0.0, 0.0]


def test_half_precision_is_raised_before_the_difference():
    """1 + 2^-7 less 2^-14 has more digits than bf16, which holds both of them."""
    batch = inputs([[-1.0078125]], [[-(2.0**-14)]])
    batch = dataclasses.replace(
        batch,
        log_probs=batch.log_probs.bfloat16(),
        rollout_log_probs=batch.rollout_log_probs.bfloat16(),
    )
    ratio = token_log_ratio(batch, "rollout")
    assert ratio.dtype == torch.float32
    assert ratio.item() == -1.0078125 + 2.0**-14


def test_token_ratio_stays_finite():
    ratio = token_ratio(torch.tensor([-1e4, 0.0, 1e4]))
    torch.testing.assert_close(ratio, torch.tensor([math.exp(-20), 1.0, math.exp(20)]))


def test_advantage_is_the_masked_mean_and_not_the_first_column():
    batch = inputs([[0.0] * 3] * 2, [[0.0] * 3] * 2, [[False, True, True], [False] * 3],
                   [[-9.0, 3.0, 1.0], [-9.0] * 3])  # fmt: skip
    assert sequence_advantage(batch).tolist() == [2.0, 0.0]


def test_length_normalisations():
    log_w, num_tokens = torch.tensor([8.0, 8.0, 0.0]), torch.tensor([16, 4, 0])
    assert normalise_log_weight(log_w, num_tokens, "none") is log_w
    assert normalise_log_weight(log_w, num_tokens, "sqrt").tolist() == [2.0, 4.0, 0.0]
    assert normalise_log_weight(log_w, num_tokens, "full").tolist() == [0.5, 2.0, 0.0]
    with pytest.raises(ValueError, match="none, sqrt, full, got 'half'"):
        normalise_log_weight(log_w, num_tokens, "half")


def test_missing_anchor_says_what_to_give():
    batch = inputs([[0.0]], [[0.0]])
    with pytest.raises(ValueError, match="old_log_probs is missing, and the loss reads it"):
        anchor_log_probs(batch, "old")
    batch = dataclasses.replace(batch, rollout_log_probs=None)
    with pytest.raises(ValueError, match="rollout_log_probs is missing"):
        anchor_log_probs(batch, "rollout")
    with pytest.raises(ValueError, match="rollout, old, got 'engine'"):
        anchor_log_probs(batch, "engine")
