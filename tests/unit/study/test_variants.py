"""The candidates for a better VESPO: VESPO where there is nothing to correct."""

import pytest
import torch

from vespo_openrlhf.losses import LossInputs, get_policy_loss, vespo_kernel
from vespo_openrlhf.losses.vcpo import effective_share
from vespo_openrlhf.study import variants
from vespo_openrlhf.study.variants import largest_power

NAME = "vespo_openrlhf.study.variants:"


def batch(spread: float) -> LossInputs:
    torch.manual_seed(0)
    log_probs = -torch.rand(32, 6, dtype=torch.float64)
    return LossInputs(
        log_probs=log_probs.clone().requires_grad_(),
        advantages=torch.randn(32, 1, dtype=torch.float64),
        action_mask=torch.ones(32, 6, dtype=torch.bool),
        rollout_log_probs=log_probs + spread * torch.randn(32, 6, dtype=torch.float64),
    )


def phi(inputs: LossInputs, name: str, **options: float) -> torch.Tensor:
    loss, metrics = get_policy_loss(name, **options)(inputs)
    assert torch.isfinite(loss)
    return metrics["phi"]


def test_effective_share_by_hand() -> None:
    weights = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64)
    assert effective_share(weights.log()).item() == pytest.approx(16 / 6 / 3)
    power = largest_power(weights.log(), 0.95, 0.0, 1.0)
    assert effective_share(power * weights.log()).item() == pytest.approx(0.95, abs=1e-4)
    assert largest_power(weights.log(), 0.5, 0.0, 1.0) == 1.0


def test_tempered_is_vespo_where_there_is_little_to_correct_and_milder_elsewhere() -> None:
    inputs = batch(0.05)
    torch.testing.assert_close(phi(inputs, NAME + "tempered"), phi(inputs, "vespo"))
    inputs = batch(0.5)
    assert phi(inputs, NAME + "tempered").std() < phi(inputs, "vespo").std()


def test_one_sided_keeps_the_good_responses_that_the_policy_has_left() -> None:
    inputs = batch(0.5)
    log_w, good = inputs.log_probs.sub(inputs.rollout_log_probs).sum(1), inputs.advantages[:, 0] > 0
    published, one_sided = phi(inputs, "vespo"), phi(inputs, NAME + "one_sided")
    left = good & (log_w < 0)
    assert left.any()
    assert (one_sided[left] == 1).all()
    assert torch.equal(one_sided[~left], published[~left])


@pytest.mark.parametrize("shape", ["published", "pessimistic"])
def test_the_measured_kernel_is_as_sharp_as_the_batch_can_pay_for(shape: str) -> None:
    inputs = batch(0.4)
    kernel = phi(inputs, "vespo", shape=shape).log()
    found = phi(inputs, NAME + "measured_kernel", shape=shape, target=0.6).log()
    assert torch.equal(found == 0, kernel == 0)
    weighed = kernel != 0
    size, found, kernel = inputs.advantages[weighed, 0].abs().log(), found[weighed], kernel[weighed]
    sharpness = found.sum() / kernel.sum()
    torch.testing.assert_close(found, sharpness * kernel)
    assert 0.5 < sharpness < 4
    wanted = 0.6 * effective_share(size)
    assert effective_share(found + size).item() == pytest.approx(wanted.item(), abs=1e-3)
    assert effective_share(1.01 * found + size) < wanted
    # On-policy phi is 1 whatever its sharpness.
    assert (phi(batch(0.0), NAME + "measured_kernel", shape=shape) == 1).all()


def test_pessimistic_as_it_was_run_is_the_option() -> None:
    inputs = batch(0.3)
    log_w = inputs.log_probs.sub(inputs.rollout_log_probs).sum(1).detach()
    advantages = inputs.advantages[:, 0]
    gone = torch.where(advantages >= 0, log_w.clamp(min=0), log_w.clamp(max=0))
    expected = vespo_kernel(gone, advantages).float()
    assert (expected == 1).any()
    for name, options in ((NAME + "pessimistic", {}), ("vespo", {"shape": "pessimistic"})):
        torch.testing.assert_close(phi(inputs, name, **options), expected)


def test_taper_damps_only_a_step_that_was_asked_for() -> None:
    """On-policy and where the policy has gone the other way, the gradient is REINFORCE's."""
    log_w = torch.tensor([-2.0, -0.1, 0.0, 0.1, 2.0, -2.0, -0.1, 0.0, 0.1, 2.0])
    advantages = torch.tensor([1.0] * 5 + [-1.0] * 5)
    current = torch.zeros(10, 1)
    inputs = LossInputs(
        log_probs=current,
        advantages=advantages,
        action_mask=torch.ones(10, 1),
        rollout_log_probs=current - log_w[:, None],
    )
    _, metrics = variants.taper(inputs)
    gone = torch.tensor([0, 0, 0, 0.1, 2.0, 2.0, 0.1, 0, 0, 0])
    torch.testing.assert_close(metrics["phi"].float(), (-gone).exp())
