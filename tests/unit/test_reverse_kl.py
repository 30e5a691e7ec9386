"""The KL over the whole vocabulary in blocks is the KL of the logits, and so are its gradients."""

from __future__ import annotations

import pytest
import torch

from vespo_openrlhf.reverse_kl import reverse_kl

N, D, E, V = 9, 6, 5, 23


def case(dtype: torch.dtype = torch.float64, teacher_rows: int = V) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(rows, D, generator=generator) for rows in (N, V))
    teacher, head = (torch.randn(rows, E, generator=generator) for rows in (N, teacher_rows))
    tokens = torch.randint(0, min(V, teacher_rows), (N,), generator=generator)
    made = (tensor.to(dtype) for tensor in (hidden, weight, teacher, head))
    return *made, tokens


def plain(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    teacher: torch.Tensor,
    head: torch.Tensor,
    tokens: torch.Tensor,
    temperature: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    columns = min(len(weight), len(head))
    log_p = (hidden @ weight[:columns].t() / temperature).log_softmax(-1)
    log_q = (teacher @ head[:columns].t() / temperature).log_softmax(-1)
    kl = torch.nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    return kl, log_q.gather(1, tokens[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("block", [1, 3 * V, 2**20])
@pytest.mark.parametrize("teacher_rows", [V, V - 4, V + 8])
def test_values_and_gradients_are_those_of_the_logits(
    block: int, temperature: float, teacher_rows: int
) -> None:
    hidden, weight, *rest = case(teacher_rows=teacher_rows)
    grad = torch.linspace(-1, 2, N, dtype=torch.float64)
    found = []
    for made in (
        lambda h, w: reverse_kl(h, w, *rest, temperature=temperature, block=block),
        lambda h, w: plain(h, w, *rest, temperature),
    ):
        inputs = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
        kl, told = made(*inputs)
        found.append((kl.detach(), told, *torch.autograd.grad(kl, inputs, grad)))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected)


def test_the_mean_over_samples_of_the_token_estimate_is_its_gradient() -> None:
    """What `--distill.estimator sampled` estimates: the expectation over tokens, exactly."""
    hidden, weight, teacher, head, tokens = case()
    inputs = [tensor.clone().requires_grad_() for tensor in (hidden, weight)]
    kl, _ = reverse_kl(*inputs, teacher, head, tokens)
    exact = torch.autograd.grad(kl.sum(), inputs)
    log_p = (inputs[0] @ inputs[1].t()).log_softmax(-1)
    log_q = (teacher @ head.t()).log_softmax(-1)
    advantages = (log_q - log_p).detach()
    estimate = -(log_p.detach().exp() * advantages * log_p).sum()
    for ours, expected in zip(torch.autograd.grad(estimate, inputs), exact, strict=True):
        torch.testing.assert_close(ours, expected)


def test_no_token_is_no_kl() -> None:
    hidden, weight, teacher, head, tokens = case()
    weight.requires_grad_()
    kl, told = reverse_kl(hidden[:0], weight, teacher[:0], head, tokens[:0])
    assert kl.shape == told.shape == (0,)
    (gradient,) = torch.autograd.grad(kl.sum(), weight)
    assert not gradient.any()


def test_two_equal_models_are_no_distance_apart() -> None:
    hidden, weight, *_, tokens = case(torch.float32)
    kl, told = reverse_kl(hidden, weight, hidden, weight, tokens)
    torch.testing.assert_close(kl, torch.zeros(N), rtol=0, atol=1e-6)
    torch.testing.assert_close(
        told, (hidden @ weight.t()).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
    )
