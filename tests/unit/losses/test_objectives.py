"""What is special to one objective: its published algorithm, step by step, against ours."""

import dataclasses
import math

import pytest
import torch

from vespo_openrlhf.losses import LossInputs, get_policy_loss
from vespo_openrlhf.losses.bapo import bapo_bounds
from vespo_openrlhf.losses.m2po import m2po_threshold
from vespo_openrlhf.losses.minpro import prefix_minimum
from vespo_openrlhf.losses.vcpo import (
    effective_share,
    minimum_variance_baseline,
    vcpo_step_scale,
)


def update(seed, spread, batch=40, tokens=25):
    """A whole update of sequences with a log-ratio of this spread."""
    generator = torch.Generator().manual_seed(seed)
    log_mu = -2 * torch.rand(batch, tokens, generator=generator)
    drift = spread * torch.randn(batch, tokens, generator=generator)
    return LossInputs(
        log_probs=(log_mu + drift).clamp(max=0).requires_grad_(),
        advantages=torch.randn(batch, generator=generator),
        action_mask=torch.rand(batch, tokens, generator=generator) < 0.8,
        rollout_log_probs=log_mu,
    )


def tokens_of(inputs):
    """(mu, r, A) of every action token, as lists of floats."""
    mask = inputs.mask
    ratio = (inputs.log_probs.detach() - inputs.rollout_log_probs).exp()
    columns = (inputs.rollout_log_probs.exp(), ratio, inputs.advantages)
    return list(zip(*(column[mask].tolist() for column in columns), strict=True))


# --- M2PO -----------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("budget", [0.01, 0.04])
def test_m2po_masks_as_its_algorithm_1_does(spread, budget):
    inputs = update(0, spread)
    moments = sorted(
        math.log(r) ** 2 for _, r, a in tokens_of(inputs) if (r > 1 and a > 0) or (r < 1 and a < 0)
    )
    kept = list(moments)
    while sum(kept) / len(kept) > budget:
        kept.pop()  # the largest of them
    loss = get_policy_loss("m2po", budget=budget)
    inputs = loss.with_own_statistics(inputs)
    threshold = m2po_threshold(inputs.statistics, budget).item()
    _, metrics = loss(inputs)
    masked = round(metrics["clip_ratio"].item() * inputs.num_tokens.sum().item())
    if len(kept) == len(moments):
        assert threshold == math.inf
        assert masked == 0
        return
    # The threshold is the largest edge of a bin that keeps the budget: up to 2.2 % below.
    exact = math.sqrt(kept[-1])
    assert exact / 2 ** (1 / 32) <= threshold <= math.sqrt(moments[len(kept)])
    assert masked == sum(moment >= threshold**2 for moment in moments)
    left = [moment for moment in moments if moment < threshold**2]
    assert sum(left) / len(left) <= budget


def test_m2po_without_a_token_masks_none():
    loss = get_policy_loss("m2po")
    nothing = torch.zeros_like(loss.statistics(update(0, 1.0)))
    assert m2po_threshold(nothing, 0.04) == math.inf


# --- BAPO -----------------------------------------------------------------------------------


def share(tokens, c_low, c_high):
    """Eq. 8 of the paper, term by term."""
    good = sum(mu * min(r, c_high) * a for mu, r, a in tokens if a > 0)
    bad = sum(mu * max(r, c_low) * -a for mu, r, a in tokens if a < 0)
    return good / (good + bad)


@pytest.mark.parametrize("spread", [0.1, 0.6, 1.5])
@pytest.mark.parametrize("target", [0.0, 0.3, 0.5, 0.55, 0.9])
def test_bapo_bounds_are_those_of_its_algorithm_1(spread, target):
    inputs = update(1, spread)
    tokens = tokens_of(inputs)
    i, j = 0, 0  # c_low = 0.6 + 0.02 i, c_high = 1.2 + 0.05 j
    while share(tokens, 0.6 + 0.02 * i, 1.2 + 0.05 * j) < target and i < 15:
        if j < 36:
            j += 1
        else:
            i += 1
    loss = get_policy_loss("bapo", target=target)
    inputs = loss.with_own_statistics(inputs)
    _, metrics = loss(inputs)
    assert metrics["c_low"].item() == pytest.approx(0.6 + 0.02 * i, abs=1e-6)
    assert metrics["c_high"].item() == pytest.approx(1.2 + 0.05 * j, abs=1e-6)


def test_bapo_starts_where_there_is_no_token():
    loss = get_policy_loss("bapo")
    nothing = torch.zeros_like(loss.statistics(update(0, 1.0)))
    c_low, c_high = bapo_bounds(nothing, 0.4, (0.6, 0.9, 0.02), (1.2, 3.0, 0.05))
    assert (c_low.item(), c_high.item()) == (pytest.approx(0.6), pytest.approx(1.2))


@pytest.mark.parametrize("name", ["m2po", "bapo"])
def test_statistics_of_what_is_not_a_number_are_not_numbers_either(name):
    """A broken log-prob is for the guard of the step to find, not an index out of range here."""
    inputs = update(0, 0.3)
    broken = inputs.log_probs.detach().clone()
    broken[inputs.mask] = torch.nan
    loss = get_policy_loss(name)
    inputs = loss.with_own_statistics(dataclasses.replace(inputs, log_probs=broken))
    assert not torch.isfinite(loss(inputs)[0])


# --- masks ----------------------------------------------------------------------------------


def one(log_w, advantage, tokens=2):
    return LossInputs(
        log_probs=torch.full((1, tokens), -1.0, requires_grad=True),
        advantages=torch.tensor([advantage]),
        action_mask=torch.ones(1, tokens),
        rollout_log_probs=torch.full((1, tokens), -1.0 - log_w / tokens),
    )


@pytest.mark.parametrize(
    ("log_w", "advantage", "kept"),
    [(-0.9, -1.0, True), (-1.1, -1.0, False), (-1.1, 1.0, True), (5.0, -1.0, True)],
)
def test_off_policy_mask_drops_bad_responses_that_the_policy_has_left(log_w, advantage, kept):
    """mean log(mu/pi) = -log_w / 2 against 0.5, as in `get_off_policy_mask` of TRL."""
    _, metrics = get_policy_loss("off_policy_mask", clip_low=1.0)(one(log_w, advantage))
    assert metrics["is_filter_ratio"].item() == (not kept)


@pytest.mark.parametrize(("weight", "phi"), [(0.49, 0.0), (0.51, 0.51), (1.99, 1.99), (2.01, 0.0)])
def test_sequence_mask_keeps_the_weight_or_drops_the_sequence(weight, phi):
    _, metrics = get_policy_loss("seq_mis")(one(math.log(weight), 1.0))
    assert metrics["phi"].item() == pytest.approx(phi, rel=1e-5)
    assert metrics["is_filter_ratio"].item() == (phi == 0)


def test_geometric_mask_does_not_see_the_length():
    for tokens in (2, 64):
        inside, outside = one(0.0009 * tokens, 1.0, tokens), one(0.0011 * tokens, 1.0, tokens)
        assert get_policy_loss("geo_mask")(inside)[1]["is_filter_ratio"] == 0
        assert get_policy_loss("geo_mask")(outside)[1]["is_filter_ratio"] == 1


# --- MinPRO ---------------------------------------------------------------------------------


def test_prefix_minimum_passes_over_what_is_no_action_token():
    log_ratio = torch.tensor([[-9.0, 0.5, -0.2, -9.0, 0.1, -0.3]])
    mask = torch.tensor([[False, True, True, False, True, True]])
    assert prefix_minimum(log_ratio, mask).tolist() == [
        pytest.approx([0.0, 0.0, 0.5, -0.2, -0.2, -0.2])
    ]


# --- VCPO -----------------------------------------------------------------------------------


def test_step_scale_by_hand():
    """W = 1, 1, 1, 9: (12)^2 / (4 * 84) = 3/7; and a sequence without action tokens."""
    per_sequence = {
        "log_w": torch.tensor([1.0, 1.0, 1.0, 9.0, 1e6]).log(),
        "num_tokens": torch.tensor([1, 2, 3, 4, 0]),
    }
    assert vcpo_step_scale(per_sequence).item() == pytest.approx(math.sqrt(3 / 7))
    assert effective_share(torch.tensor([-800.0, -800.0])).item() == pytest.approx(1)
    assert effective_share(torch.tensor([])).item() == 1


def test_minimum_variance_baseline_by_hand():
    """Group 7: weights W^2 |g|^2 = 1 * 4 and 4 * 1; group 3: one sample; group 5: none."""
    baseline = minimum_variance_baseline(
        rewards=torch.tensor([1.0, 0.0, 0.25, 1.0, 0.0]),
        log_w=torch.tensor([1.0, 2.0, 50.0, 1.0, 1.0]).log(),
        score_norms=torch.tensor([2.0, 1.0, 3.0, 0.0, 0.0]),
        groups=torch.tensor([7, 7, 3, 5, 5]),
    )
    assert baseline.tolist() == pytest.approx([0.5, 0.5, 0.25, 0.5, 0.5])


def test_minimum_variance_baseline_is_the_minimum():
    """Of the second moment of the estimator, sum W^2 |g|^2 (R - b)^2, over b."""
    generator = torch.Generator().manual_seed(0)
    rewards, log_w = (torch.randn(2, 50, generator=generator)).double()
    norms = torch.rand(50, generator=generator).double()
    b = minimum_variance_baseline(rewards, log_w, norms, torch.zeros(50, dtype=torch.long))[0]

    def moment(b):
        return (log_w.exp() ** 2 * norms**2 * (rewards - b) ** 2).sum()

    assert all(moment(b) < moment(b + shift) for shift in (-0.1, -1e-3, 1e-3, 0.1))
    huge = minimum_variance_baseline(rewards, log_w + 900, norms, torch.zeros(50, dtype=torch.long))
    torch.testing.assert_close(huge[0], b)  # only ratios within the group matter
