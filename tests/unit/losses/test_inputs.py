import dataclasses
import math

import pytest
import torch

from vespo_openrlhf.losses import LossInputs, aggregate
from vespo_openrlhf.losses.inputs import LOSS_AGG_MODES


def batch(mask, log_probs=None, **totals):
    mask = torch.tensor(mask)
    log_probs = torch.zeros(mask.shape) if log_probs is None else log_probs
    return LossInputs(
        log_probs=log_probs, advantages=torch.zeros(mask.shape), action_mask=mask, **totals
    )


LOSS = [[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]
MASK = [[True, True, False], [True, False, False]]


@pytest.mark.parametrize(
    ("mode", "totals", "by_hand"),
    [
        ("token-mean", {}, (1 + 2 + 8) / 3),
        ("token-mean", {"batch_num_tokens": 10.0, "dp_size": 4}, (1 + 2 + 8) / 10 * 4),
        # OpenRLHF divides the total by the accumulation steps: it may be fractional.
        ("token-mean", {"batch_num_tokens": torch.tensor(0.75)}, (1 + 2 + 8) / 0.75),
        ("seq-mean-token-mean", {}, (1.5 + 8) / 2),
        ("seq-mean-token-mean", {"global_batch_size": 5, "dp_size": 2}, (1.5 + 8) / 5 * 2),
        ("seq-mean-token-sum", {}, (1 + 2 + 8) / 2),
        ("seq-mean-token-sum", {"global_batch_size": 5, "dp_size": 2}, (1 + 2 + 8) / 5 * 2),
        ("seq-mean-token-sum", {"batch_num_tokens": 99}, (1 + 2 + 8) / 2),
    ],
)
def test_aggregate_by_hand(mode, totals, by_hand):
    loss = aggregate(torch.tensor(LOSS), batch(MASK, **totals), mode)
    torch.testing.assert_close(loss, torch.tensor(float(by_hand)))


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int64, torch.float32])
@pytest.mark.parametrize(
    "totals",
    [
        {},
        {"dp_size": 4},
        {"dp_size": 4, "batch_num_tokens": 37.5, "global_batch_size": 3.5},
        {"batch_num_tokens": torch.tensor(99.0), "global_batch_size": torch.tensor(7.0)},
    ],
)
def test_aggregate_equals_openrlhf(openrlhf_loss, random_inputs, mode, mask_dtype, totals):
    inputs = random_inputs(1)
    mask = inputs.action_mask.to(mask_dtype)
    inputs = dataclasses.replace(inputs, action_mask=mask, **totals)
    per_token = torch.randn(mask.shape, generator=torch.Generator().manual_seed(2))
    ours, theirs = (per_token.clone().requires_grad_() for _ in range(2))
    loss = aggregate(ours, inputs, mode)
    expected = openrlhf_loss.aggregate_loss(
        theirs, mask, token_level_loss=mode == "token-mean", **totals
    )
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=0)


@pytest.mark.parametrize("mode", LOSS_AGG_MODES)
@pytest.mark.parametrize("totals", [{}, {"batch_num_tokens": 0.0, "global_batch_size": 0}])
def test_no_action_token_at_all_is_a_zero_loss(mode, totals):
    """OpenRLHF's mean over nothing is nan, which would end a run for an empty micro-batch."""
    per_token = torch.full((2, 3), torch.nan, requires_grad=True)
    loss = aggregate(per_token, batch([[False] * 3] * 2, **totals), mode)
    loss.backward()
    assert loss == 0
    assert (per_token.grad == 0).all()


@pytest.mark.parametrize("garbage", [torch.nan, torch.inf, -torch.inf, 1e38])
def test_masked_entries_are_not_read(garbage):
    per_token = torch.tensor(LOSS)
    per_token[~torch.tensor(MASK)] = garbage
    per_token.requires_grad_()
    loss = aggregate(per_token, batch(MASK))
    loss.backward()
    torch.testing.assert_close(loss, torch.tensor(11 / 3))
    assert (per_token.grad[~torch.tensor(MASK)] == 0).all()


def test_unknown_mode_names_the_choices():
    names = "token-mean, seq-mean-token-mean, seq-mean-token-sum"
    with pytest.raises(ValueError, match=f"{names}, got 'sum'"):
        aggregate(torch.tensor(LOSS), batch(MASK), "sum")


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 4)])
def test_advantages_of_whole_sequences_are_repeated(shape):
    advantages = torch.arange(float(math.prod(shape))).reshape(shape)
    inputs = LossInputs(
        log_probs=torch.zeros(3, 4), advantages=advantages, action_mask=torch.ones(3, 4)
    )
    expected = advantages.reshape(3, -1).expand(3, 4)
    assert torch.equal(inputs.advantages, expected)
    assert inputs.old_log_probs is None


@pytest.mark.parametrize(
    "field", ["old_log_probs", "advantages", "action_mask", "rollout_log_probs"]
)
def test_wrong_shape_names_the_field(random_inputs, field):
    inputs = random_inputs(0)
    with pytest.raises(ValueError, match=rf"{field} has the shape \(6, 22\)"):
        dataclasses.replace(inputs, **{field: getattr(inputs, field)[:, :-1]})
    with pytest.raises(ValueError, match="log_probs must be"):
        batch([[True]], log_probs=torch.zeros(1))
