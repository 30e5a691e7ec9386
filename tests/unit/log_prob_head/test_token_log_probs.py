"""`token_log_probs` against the same thing by way of the logits, in float64 where that is exact."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from vespo_openrlhf import log_prob_head
from vespo_openrlhf.log_prob_head import token_log_probs

N, D, V = 37, 16, 211


def make(dtype: torch.dtype, bias: bool = False) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """([hidden, weight, bias if there is one], tokens, gradient to log-probs, to entropies)."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = [normal(N, D), 0.7 * normal(V, D)] + [normal(V)] * bias
    inputs = [tensor.to(dtype).requires_grad_() for tensor in inputs]
    tokens = torch.randint(V, (N,), generator=generator)
    return inputs, tokens, normal(N), normal(N)


def by_logits(
    inputs: list[Tensor],
    tokens: Tensor,
    temperature: float = 1.0,
    soft_cap: float | None = None,
    wide: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    logits = torch.nn.functional.linear(*inputs)
    if soft_cap is not None:
        logits = torch.tanh(logits / soft_cap) * soft_cap
    log_p = (logits.to(wide) / temperature).log_softmax(-1)
    return log_p.gather(1, tokens[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def gradients(
    inputs: list[Tensor], results: tuple[Tensor, Tensor | None], *by: Tensor
) -> list[Tensor]:
    loss = sum(
        (result * grad.to(result.dtype)).sum()
        for result, grad in zip(results, by, strict=True)
        if result is not None
    )
    return list(torch.autograd.grad(loss, inputs))


@pytest.mark.parametrize("soft_cap", [None, 3.0])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("block", [1, 700, 2**20])
def test_values_and_gradients_are_those_of_the_logits(
    soft_cap: float | None, temperature: float, bias: bool, entropy: bool, block: int
) -> None:
    inputs, tokens, *by = make(torch.float64, bias)
    expected = by_logits(inputs, tokens, temperature, soft_cap)
    got = token_log_probs(
        *inputs[:2],
        tokens,
        bias_V=inputs[2] if bias else None,
        temperature=temperature,
        soft_cap=soft_cap,
        entropy=entropy,
        block=block,
    )
    torch.testing.assert_close(got[0], expected[0], rtol=1e-12, atol=1e-12)
    if not entropy:
        assert got[1] is None
        expected = (expected[0], None)
    else:
        torch.testing.assert_close(got[1], expected[1], rtol=1e-12, atol=1e-12)
    for one, other in zip(
        gradients(inputs, got, *by), gradients(inputs, expected, *by), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("only", [0, 1])
def test_a_gradient_to_one_of_both_results(only: int) -> None:
    inputs, tokens, *by = make(torch.float64)
    got = token_log_probs(*inputs, tokens, entropy=True, block=700)
    expected = by_logits(inputs, tokens)
    for one, other in zip(
        torch.autograd.grad((got[only] * by[only]).sum(), inputs),
        torch.autograd.grad((expected[only] * by[only]).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_only_what_is_asked_for_gets_a_gradient() -> None:
    (hidden, weight), tokens, *_ = make(torch.float64)
    weight = weight.detach()  # as with LoRA
    token_log_probs(hidden, weight, tokens)[0].sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None
    with torch.no_grad():
        assert not token_log_probs(hidden, weight, tokens)[0].requires_grad


@pytest.mark.parametrize("soft_cap", [None, 30.0])
def test_bfloat16_sums_in_float32(soft_cap: float | None) -> None:
    """Values as from float32 sums over the very same logits; gradients as near to the exact ones,
    of the same rounded inputs, as those by way of the logits."""
    inputs, tokens, *by = make(torch.bfloat16)
    got = token_log_probs(*inputs, tokens, soft_cap=soft_cap, entropy=True)
    plain = by_logits(inputs, tokens, soft_cap=soft_cap, wide=torch.float32)
    for one, other in zip(got, plain, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    exact_inputs = [tensor.detach().double().requires_grad_() for tensor in inputs]
    exact = gradients(exact_inputs, by_logits(exact_inputs, tokens, soft_cap=soft_cap), *by)
    ours, theirs = gradients(inputs, got, *by), gradients(inputs, plain, *by)
    for one, other, true in zip(ours, theirs, exact, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one - true).norm() <= 1.1 * (other - true).norm() + 1e-3 * true.norm()


def test_blocks_change_nothing_but_rounding() -> None:
    inputs, tokens, *by = make(torch.float32, bias=True)
    results = []
    for block in (1, 64, 1000, 2**27):
        got = token_log_probs(
            *inputs[:2], tokens, bias_V=inputs[2], temperature=0.8, entropy=True, block=block
        )
        results.append([*got, *gradients(inputs, got, *by)])
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_large_logits_stay_finite() -> None:
    hidden = torch.full((2, 1), 1e4, requires_grad=True)
    weight = torch.tensor([[-1.0], [0.0], [1.0]], requires_grad=True)
    log_probs, entropy = token_log_probs(hidden, weight, torch.tensor([2, 0]), entropy=True)
    assert log_probs.tolist() == [0.0, -2e4]
    assert entropy.tolist() == [0.0, 0.0]
    (log_probs.sum() + entropy.sum()).backward()
    assert bool(torch.isfinite(weight.grad).all())


def test_no_tokens_give_a_gradient_of_zero() -> None:
    hidden = torch.randn(0, D, requires_grad=True)
    weight = torch.randn(V, D, requires_grad=True)
    log_probs, entropy = token_log_probs(hidden, weight, torch.zeros(0).long(), entropy=True)
    assert log_probs.shape == entropy.shape == (0,)
    log_probs.sum().backward()
    assert not weight.grad.any()


def test_what_is_kept_does_not_grow_with_the_vocabulary() -> None:
    (hidden, weight), tokens, *_ = make(torch.float32)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        token_log_probs(hidden, weight, tokens, entropy=True)
    beside = [tensor for tensor in kept if tensor is not hidden and tensor is not weight]
    own = sum(
        t.numel() for t in beside if t.data_ptr() not in (hidden.data_ptr(), weight.data_ptr())
    )
    assert own <= 4 * N


def peak_bytes(step: Callable[[], None]) -> int:
    """Most bytes allocated at once, as the profiler records every allocation and release."""
    step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def test_peak_memory_is_a_fraction_of_the_logits() -> None:
    """Beside the gradient of the weight, which either way ends with."""
    tokens, width, vocabulary, block = 512, 8, 20_000, 2**18
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight = torch.randn(vocabulary, width, requires_grad=True)
    chosen = torch.randint(vocabulary, (tokens,))

    def blocks() -> None:
        results = token_log_probs(hidden, weight, chosen, entropy=True, block=block)
        torch.autograd.grad(results[0].sum() + results[1].sum(), (hidden, weight))

    def logits() -> None:
        results = by_logits([hidden, weight], chosen, wide=torch.float32)
        torch.autograd.grad(results[0].sum() + results[1].sum(), (hidden, weight))

    gradient, one = 4 * vocabulary * width, 4 * tokens * vocabulary
    assert peak_bytes(logits) > 3 * one
    assert peak_bytes(blocks) < gradient + 3 * 4 * block + 100 * 4 * tokens
    assert peak_bytes(blocks) < 0.05 * peak_bytes(logits)


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"soft_cap": -1.0}])
def test_refuses_what_has_no_meaning(options: dict[str, float]) -> None:
    (hidden, weight), tokens, *_ = make(torch.float32)
    with pytest.raises(ValueError, match=next(iter(options))):
        token_log_probs(hidden, weight, tokens, **options)


def test_where_the_compiler_fails_the_plain_function_does(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def refuse(function: Callable[..., int]) -> Callable[..., int]:
        def compiled(*args: object) -> int:
            calls.append(function)
            raise RuntimeError("no compiler here")

        return compiled

    def plain(logits: object, more: int) -> int:
        return more + 1

    monkeypatch.setattr(log_prob_head, "_compiled", refuse)
    on_cuda = SimpleNamespace(is_cuda=True)
    with pytest.warns(UserWarning, match="plain is not compiled, and slower: no compiler here"):
        assert log_prob_head._fused(plain, on_cuda, 1) == 2
    assert log_prob_head._fused(plain, on_cuda, 2) == 3
    assert calls == [plain]  # not tried again
    log_prob_head._left_alone.discard(plain)


def test_running_out_of_memory_is_not_taken_for_a_failed_compiler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def exhausted(*args: object) -> None:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(log_prob_head, "_compiled", lambda function: exhausted)
    with pytest.raises(torch.OutOfMemoryError):
        log_prob_head._fused(exhausted, SimpleNamespace(is_cuda=True))
    assert exhausted not in log_prob_head._left_alone
