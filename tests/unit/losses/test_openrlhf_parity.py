"""ppo and gspo are OpenRLHF's own, value, gradient and clip ratio, to 1e-6."""

import dataclasses
import math

import pytest
import torch

from vespo_openrlhf.losses import get_policy_loss


def assert_equal(ours, theirs, inputs):
    totals = {"dp_size": 2, "batch_num_tokens": 50.5, "global_batch_size": 4.5}
    inputs = dataclasses.replace(inputs, **totals)
    loss, metrics = ours(inputs)
    (gradient,) = torch.autograd.grad(loss, inputs.log_probs)
    expected, clip_ratio, _, _, is_filter_ratio = theirs(
        inputs.log_probs,
        inputs.old_log_probs,
        inputs.advantages,
        inputs.action_mask,
        inputs.rollout_log_probs,
        **totals,
    )
    (expected_gradient,) = torch.autograd.grad(expected, inputs.log_probs)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(metrics["clip_ratio"], clip_ratio, rtol=1e-6, atol=0)
    assert ("is_filter_ratio" in metrics) == (is_filter_ratio is not None)
    if is_filter_ratio is not None:
        torch.testing.assert_close(metrics["is_filter_ratio"], is_filter_ratio, rtol=1e-6, atol=0)


@pytest.mark.parametrize("drift", [0.01, 0.5, 5.0])
@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
@pytest.mark.parametrize("dual_clip", [None, 1.5, math.inf])
@pytest.mark.parametrize("tis", ["off", "clip", "mask"])
def test_ppo(openrlhf_loss, random_inputs, drift, mode, dual_clip, tis):
    ours = get_policy_loss(
        "ppo", anchor="old", dual_clip=dual_clip, tis=tis, tis_low=0.8, loss_agg_mode=mode
    )
    theirs = openrlhf_loss.PolicyLoss(
        clip_eps_low=0.2,
        clip_eps_high=0.28,
        dual_clip=dual_clip,
        token_level_loss=mode == "token-mean",
        is_correction_level="off" if tis == "off" else "token",
        is_correction_mode="mask" if tis == "off" else tis,
        is_correction_threshold=(0.8, 5.0),
    )
    assert_equal(ours, theirs, random_inputs(1, drift=drift))


@pytest.mark.parametrize("drift", [1e-4, 1e-3, 0.5])
@pytest.mark.parametrize("clip", [(3e-4, 4e-4), (0.05, 0.1)])
@pytest.mark.parametrize(("anchor", "level"), [("old", "off"), ("rollout", "token")])
def test_gspo(openrlhf_loss, random_inputs, drift, clip, anchor, level):
    """With its correction on, OpenRLHF's gspo starts its ratio from the rollout log-probs."""
    ours = get_policy_loss("gspo", clip_low=clip[0], clip_high=clip[1], anchor=anchor)
    theirs = openrlhf_loss.PolicyLoss(*clip, policy_loss_type="gspo", is_correction_level=level)
    assert_equal(ours, theirs, random_inputs(2, drift=drift))


def test_decoupled_ppo_is_ppo_with_the_mask_correction(openrlhf_loss, random_inputs):
    theirs = openrlhf_loss.PolicyLoss(
        is_correction_level="token", is_correction_threshold=(0.0, 1.1)
    )
    ours = get_policy_loss("decoupled_ppo", behaviour_cap=1.1)
    assert_equal(ours, theirs, random_inputs(3))
