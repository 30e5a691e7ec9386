"""A teacher's advantages are the gradient of the KL that they stand for."""

from __future__ import annotations

import pytest
import torch

from vespo_openrlhf.losses.distillation import (
    DistillOptions,
    distillation_metrics,
    distilled_advantages,
)
from vespo_openrlhf.losses.inputs import LossInputs
from vespo_openrlhf.losses.registry import get_policy_loss

V = 7


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probs of student and teacher over V tokens in three states; the student's have a
    gradient."""
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(3, V, generator=generator, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(3, V, generator=generator, dtype=torch.float64).log_softmax(-1)
    return student, teacher


def expected_gradient(
    student: torch.Tensor, teacher: torch.Tensor, sampler: torch.Tensor, options: DistillOptions
) -> torch.Tensor:
    """Of -E[A log pi] over every token of each state, weighed by the sampler's probability."""
    log_probs = student.log_softmax(-1)
    advantages = distilled_advantages(torch.zeros_like(teacher), log_probs, teacher, options)
    loss = -(sampler * advantages * log_probs).sum()
    return torch.autograd.grad(loss, student)[0]


def test_reverse_is_the_gradient_of_the_reverse_kl_where_the_student_samples() -> None:
    student, teacher = pair()
    log_probs = student.log_softmax(-1)
    kl = (log_probs.exp() * (log_probs - teacher)).sum()
    (exact,) = torch.autograd.grad(kl, student, retain_graph=True)
    sampler = log_probs.exp().detach()
    found = expected_gradient(student, teacher, sampler, DistillOptions("t"))
    torch.testing.assert_close(found, exact)


def test_forward_is_the_gradient_of_the_forward_kl_where_the_teacher_samples() -> None:
    student, teacher = pair()
    kl = (teacher.exp() * (teacher - student.log_softmax(-1))).sum()
    (exact,) = torch.autograd.grad(kl, student)
    options = DistillOptions("t", direction="forward")
    found = expected_gradient(student, teacher, teacher.exp(), options)
    torch.testing.assert_close(found, exact)


def test_w_makes_the_teachers_samples_the_students() -> None:
    """With phi = W = pi/pi_T, reverse: the reverse KL's gradient from samples of the teacher."""
    student, teacher = pair()
    log_probs = student.log_softmax(-1)
    kl = (log_probs.exp() * (log_probs - teacher)).sum()
    (exact,) = torch.autograd.grad(kl, student, retain_graph=True)
    weight = (log_probs - teacher).exp().detach()
    found = expected_gradient(student, teacher, teacher.exp() * weight, DistillOptions("t"))
    torch.testing.assert_close(found, exact)


@pytest.mark.parametrize("coef", [0.25, 0.5, 1.0])
def test_the_rest_of_the_advantage_is_the_rewards(coef: float) -> None:
    reward = torch.tensor([[2.0, -1.0]])
    log_probs, teacher = torch.tensor([[-1.0, -3.0]]), torch.tensor([[-0.5, -4.0]])
    found = distilled_advantages(reward, log_probs, teacher, DistillOptions("t", coef))
    teachers = torch.tensor([[0.5, -1.0]])
    torch.testing.assert_close(found, (1 - coef) * reward + coef * teachers)


def test_no_gradient_runs_through_the_advantage() -> None:
    log_probs = torch.tensor([[-1.0]], requires_grad=True)
    found = distilled_advantages(
        torch.zeros(1, 1), log_probs, torch.tensor([[-0.5]]), DistillOptions("t")
    )
    assert not found.requires_grad


def test_phi_weighs_the_teachers_advantage_as_any_other() -> None:
    """VESPO on two sequences of one token: a fresh one, and one that the policy has given up."""
    log_probs = torch.tensor([[-1.0], [-1.0]], requires_grad=True)
    rollout = torch.tensor([[-1.0], [1.0]])  # log W 0 and -2
    advantages = distilled_advantages(
        torch.zeros(2, 1), log_probs, torch.tensor([[-0.5], [-0.5]]), DistillOptions("t")
    )
    inputs = LossInputs(
        log_probs=log_probs,
        advantages=advantages,
        action_mask=torch.ones(2, 1),
        rollout_log_probs=rollout,
    )
    loss, _ = get_policy_loss("vespo")(inputs)
    (gradient,) = torch.autograd.grad(loss, log_probs)
    log_w = torch.tensor([0.0, -2.0])
    phi = torch.exp(2 * log_w + 3 * (1 - log_w.exp()))
    torch.testing.assert_close(gradient[:, 0], -0.5 * phi / 2)


def test_metrics_are_means_over_the_action_tokens() -> None:
    log_probs, teacher = torch.tensor([[-1.0, -2.0, 9.0]]), torch.tensor([[-2.0, -2.5, 9.0]])
    found = distillation_metrics(log_probs, teacher, torch.tensor([[1, 1, 0]]))
    assert found["teacher_kl"] == pytest.approx(0.75)
    assert found["teacher_log_prob"] == pytest.approx(-2.25)


@pytest.mark.parametrize("coef", [0.0, -0.5, 1.5])
def test_a_share_is_a_share(coef: float) -> None:
    with pytest.raises(ValueError, match="coef must be above 0 and at most 1"):
        DistillOptions("t", coef)
