"""The VESPO loss against a 50-digit evaluation of its formula, and its stated properties."""

import dataclasses
import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vespo_openrlhf.losses import LossInputs, get_policy_loss
from vespo_openrlhf.losses.inputs import sequence_scale, zero_masked
from vespo_openrlhf.losses.weighted import weighted_log_prob_loss

mpmath.mp.dps = 50
SMALLEST_NORMAL = torch.finfo(torch.float32).tiny
LARGEST = torch.finfo(torch.float32).max
VESPO = get_policy_loss("vespo")


def made(log_probs, advantages, mask, rollout, **others):
    return LossInputs(
        log_probs=log_probs,
        advantages=advantages,
        action_mask=mask,
        rollout_log_probs=rollout,
        **others,
    )


def exact(inputs, mode="token-mean"):
    """Loss and (B, A) gradient with every operation at 50 digits."""
    mp = mpmath.mpf
    mask = inputs.action_mask.bool().tolist()
    log_probs, rollout, advantages = (
        t.detach().double().tolist()
        for t in (inputs.log_probs, inputs.rollout_log_probs, inputs.advantages)
    )
    lengths = [sum(row) for row in mask]
    total = inputs.batch_num_tokens or sum(lengths) or 1
    sequences = inputs.global_batch_size or sum(n > 0 for n in lengths) or 1
    loss, gradient = mp(0), []
    for i, row in enumerate(mask):
        action = [t for t, on in enumerate(row) if on]
        log_w = mpmath.fsum(mp(log_probs[i][t]) - mp(rollout[i][t]) for t in action)
        positive = mpmath.fsum(mp(advantages[i][t]) for t in action) >= 0
        c1, c2 = (2, 3) if positive else (3, 2)
        phi = mpmath.exp(c1 * log_w + c2 * (1 - mpmath.exp(log_w)))
        scale = 1 / mp(total) if mode == "token-mean" else 1 / (mp(sequences) * max(lengths[i], 1))
        coefficient = -phi * inputs.dp_size * scale
        gradient.append([coefficient * mp(advantages[i][t]) if on else mp(0) for t, on in
                         enumerate(row)])  # fmt: skip
        loss += mpmath.fsum(gradient[i][t] * mp(log_probs[i][t]) for t in action)
    return loss, gradient


def assert_close(value, truth, rtol=1e-6):
    assert math.isfinite(value)
    if SMALLEST_NORMAL <= abs(truth) <= LARGEST:
        assert abs(value - truth) <= rtol * abs(truth), (value, truth)
    else:
        assert abs(value) <= 1.01 * SMALLEST_NORMAL


def check(inputs, mode="token-mean", gradient_rtol=1e-6):
    loss, gradient = exact(inputs, mode)
    got, _ = get_policy_loss("vespo", loss_agg_mode=mode)(inputs)
    got.backward()
    assert got.dtype == torch.float32
    assert_close(got.item(), loss)
    assert inputs.log_probs.grad.dtype == inputs.log_probs.dtype
    for got_row, row in zip(inputs.log_probs.grad.tolist(), gradient, strict=True):
        for got_entry, entry in zip(got_row, row, strict=True):
            if entry == 0:
                assert got_entry == 0
            else:
                assert_close(got_entry, entry, gradient_rtol)


def random_batch(generator, batch, tokens, dtype=torch.float32):
    """log W of every size: on-policy, around 1, deep in phi's tail, +-200; any sign of A."""

    def rand(*shape):
        return torch.rand(*shape, generator=generator)

    def pick(options):
        return options[int(torch.randint(len(options), (), generator=generator))]

    log_w = torch.stack([
        pick([0.0, 1e-4, -1e-4, 200.0, -200.0, float(4 * rand(())), float(-48 * rand(()))])
        * torch.ones(()) for _ in range(batch)
    ])  # fmt: skip
    log_probs = -3 * rand(batch, tokens) - 1e-3
    mask = rand(batch, tokens) < pick([0.3, 0.9, 1.0])
    lengths = mask.sum(-1).clamp(min=1)
    wobble = pick([0.0, 0.01, 1.0]) * (rand(batch, tokens) - 0.5)
    rollout = log_probs - (log_w / lengths).unsqueeze(-1) + wobble
    sign = pick([1.0, -1.0, None, 0.0])
    advantages = torch.randn(batch, 1, generator=generator)
    if sign is not None:
        advantages = advantages.abs() * sign
    advantages = advantages.expand(batch, tokens).contiguous()
    if pick([True, False, False]):  # an advantage per token, as from GAE
        advantages = advantages + 0.1 * (rand(batch, tokens) - 0.5)
    log_probs = log_probs.to(dtype).requires_grad_()
    return made(log_probs, advantages.to(dtype), mask, rollout.to(dtype))


@pytest.mark.parametrize("seed", range(8))
def test_equals_fifty_digits(seed):
    """1,200 batches, some 4,800 sequences."""
    generator = torch.Generator().manual_seed(seed)
    for i in range(150):
        batch, tokens = (int(torch.randint(1, n, (), generator=generator)) for n in (8, 14))
        inputs = random_batch(generator, batch, tokens)
        if i % 3 == 0:
            inputs = dataclasses.replace(
                inputs, dp_size=2, batch_num_tokens=97.25, global_batch_size=12.5
            )
        check(inputs, "seq-mean-token-mean" if i % 2 else "token-mean")


@pytest.mark.parametrize("log_w", [0.0, 1e-5, 2.5, -40.0, 3.9, 200.0, -200.0])
@pytest.mark.parametrize("advantage", [1.5, -1.5, 0.0])
@pytest.mark.parametrize("tokens", [1, 5])
def test_extreme_weights(log_w, advantage, tokens):
    log_probs = torch.full((2, tokens), -0.75)
    rollout = log_probs - log_w / tokens
    mask = torch.ones(2, tokens)
    mask[1] = 0  # a fully masked row beside it
    advantages = torch.full((2, tokens), advantage)
    check(made(log_probs.requires_grad_(), advantages, mask, rollout))


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_long_sequences(advantage):
    generator = torch.Generator().manual_seed(3)
    log_probs = -2 * torch.rand(2, 65_536, generator=generator)
    rollout = log_probs + 0.01 * torch.randn(2, 65_536, generator=generator)
    advantages = torch.full_like(log_probs, advantage)
    mask = torch.ones_like(log_probs)
    mask[1, 40_000:] = 0
    check(made(log_probs.requires_grad_(), advantages, mask, rollout))


def test_half_precision_inputs():
    """The value is exact for what bf16 holds; the gradient is rounded once, to bf16's 8 bits."""
    generator = torch.Generator().manual_seed(4)
    for _ in range(60):
        check(random_batch(generator, 4, 9, torch.bfloat16), gradient_rtol=2**-8)


def test_nothing_to_learn_from_is_a_zero_loss():
    log_probs = torch.full((2, 3), -1.0, requires_grad=True)
    garbage = torch.full((2, 3), torch.nan)
    loss, metrics = VESPO(made(log_probs, garbage, torch.zeros(2, 3), garbage))
    loss.backward()
    assert loss.item() == 0
    assert (log_probs.grad == 0).all()
    assert metrics["phi"].tolist() == [1.0, 1.0]
    assert metrics["num_tokens"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
def test_on_policy_is_reinforce_to_the_bit(random_inputs, mode):
    inputs = random_inputs(5)
    inputs = dataclasses.replace(inputs, rollout_log_probs=inputs.log_probs.detach().clone())
    results = []
    for name in ("vespo", "reinforce"):
        loss, _ = get_policy_loss(name, loss_agg_mode=mode)(inputs)
        (gradient,) = torch.autograd.grad(loss, inputs.log_probs)
        results.append((loss, gradient))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@settings(max_examples=50, deadline=None)
@given(st.floats(-3, 3, width=32), st.floats(-2, 2, width=32), st.integers(1, 6))
def test_no_gradient_flows_through_phi(log_w, advantage, tokens):
    """The gradient is -phi A / N for every token: phi's own derivative would add to it."""
    log_probs = torch.full((1, tokens), -1.0, requires_grad=True)
    rollout = torch.full((1, tokens), -1.0 - log_w / tokens)
    advantages = torch.full((1, tokens), advantage)
    loss, metrics = VESPO(made(log_probs, advantages, torch.ones(1, tokens), rollout))
    loss.backward()
    assert not any(metric.requires_grad for metric in metrics.values())
    expected = (-metrics["phi"] * advantage / tokens).expand(1, tokens)
    torch.testing.assert_close(log_probs.grad, expected, rtol=1e-6, atol=1e-45)


def test_gradient_is_scaled_by_what_follows():
    log_probs = torch.full((1, 2), -1.0, requires_grad=True)
    inputs = made(log_probs, torch.ones(1, 2), torch.ones(1, 2), log_probs.detach())
    loss, _ = VESPO(inputs)
    (3 * loss + log_probs.sum()).backward()
    assert log_probs.grad.tolist() == [[-0.5, -0.5]]


def test_by_hand():
    """pi/mu = 2 and 0.7: W = 1.4."""
    log_probs = torch.tensor([[0.5, 0.35]]).log().requires_grad_()
    rollout = torch.tensor([[0.25, 0.5]]).log()
    for advantage, phi in ((2.0, 1.4**2 * math.exp(-1.2)), (-2.0, 1.4**3 * math.exp(-0.8))):
        advantages = torch.full((1, 2), advantage)
        inputs = made(log_probs, advantages, torch.ones(1, 2), rollout)
        loss, metrics = VESPO(inputs)
        (gradient,) = torch.autograd.grad(loss, log_probs)
        expected = -phi * advantage * math.log(0.5 * 0.35) / 2
        torch.testing.assert_close(loss, torch.tensor(expected))
        torch.testing.assert_close(gradient, torch.full((1, 2), -phi * advantage / 2))
        torch.testing.assert_close(metrics["log_w"], torch.tensor([math.log(1.4)]))
        torch.testing.assert_close(metrics["phi"], torch.tensor([phi]))
        assert metrics["advantage"].tolist() == [advantage]
        assert metrics["num_tokens"].tolist() == [2.0]


def test_ablations():
    """log W = 4 over 4 tokens: 2 after 1/sqrt(T), 1 after 1/T; and one kernel for both signs."""
    log_probs = torch.full((1, 4), -1.0)
    rollout = torch.full((1, 4), -2.0)
    inputs = made(log_probs, -torch.ones(1, 4), torch.ones(1, 4), rollout)
    for normalisation, log_w in (("none", 4.0), ("sqrt", 2.0), ("full", 1.0)):
        _, metrics = get_policy_loss("vespo", length_normalisation=normalisation)(inputs)
        phi = math.exp(3 * log_w + 2 * (1 - math.exp(log_w)))
        torch.testing.assert_close(metrics["phi"], torch.tensor([phi]))
        assert metrics["log_w"].tolist() == [4.0]  # the metric is the weight itself
    _, metrics = get_policy_loss("vespo", c1_neg=2.0, c2_neg=3.0, length_normalisation="full")(
        inputs
    )
    torch.testing.assert_close(metrics["phi"], torch.tensor([math.exp(2 + 3 * (1 - math.e))]))


def test_pessimistic_keeps_the_gradient_that_brings_a_response_back():
    """W = 1.4 and 0.5, A of either sign: by hand."""
    log_pi = torch.tensor([[0.5, 0.28], [0.1, 1.0]] * 2).log().requires_grad_()
    log_mu = torch.tensor([[0.25, 0.4], [0.2, 1.0]] * 2).log()
    advantages = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]).expand(4, 2)
    loss = get_policy_loss("vespo", shape="pessimistic")
    value, metrics = loss(made(log_pi, advantages, torch.ones(4, 2), log_mu))
    phi = [1.4**2 * math.exp(3 * (1 - 1.4)), 1, 1, 0.5**3 * math.exp(2 * (1 - 0.5))]
    torch.testing.assert_close(metrics["phi"], torch.tensor(phi))
    value.backward()
    expected = -torch.tensor(phi)[:, None] * advantages / 8
    torch.testing.assert_close(log_pi.grad, expected)


def test_anchor(random_inputs):
    inputs = random_inputs(6)
    as_rollout = dataclasses.replace(inputs, rollout_log_probs=inputs.old_log_probs)
    assert get_policy_loss("vespo", anchor="old")(inputs)[0] == VESPO(as_rollout)[0]
    assert VESPO(inputs)[0] != VESPO(as_rollout)[0]
    with pytest.raises(ValueError, match="rollout_log_probs is missing"):
        VESPO(dataclasses.replace(inputs, rollout_log_probs=None))
    # Nothing is asked of the trainer's own recomputation.
    VESPO(dataclasses.replace(inputs, old_log_probs=None))


def truncated(cap, old=(0.25, 0.4)):
    """A = -1 and three tokens, the last masked; pi/old is 2 and 0.7, old/mu 1.25 and 8."""
    rows = [(0.5, 0.28), old, (0.2, 0.05)]
    log_probs, old, mu = (torch.tensor([[*row, math.nan]]).log() for row in rows)
    mask = torch.tensor([[True, True, False]])
    inputs = made(log_probs, -torch.ones(1, 3), mask, mu, old_log_probs=old)
    return get_policy_loss("vespo", anchor="old", tis_cap=cap)(inputs)[1]


@pytest.mark.parametrize(
    ("cap", "weight"),
    [
        (2.0, 2 * 0.7 * 1.25 * 2),  # 8 is cut to 2
        (1.0, 2 * 0.7),  # W as without a correction
        (0.5, 2 * 0.7 * 0.5 * 0.5),
        (math.inf, 2.5 * 5.6),  # pi/mu, as with the rollout anchor
    ],
)
def test_a_truncated_correction_inside_w(cap, weight):
    """prod pi/old min(old/mu, cap): the factor of each token, by hand."""
    metrics = truncated(cap)
    assert metrics["log_w"].item() == pytest.approx(math.log(weight), rel=1e-6)
    phi = weight**3 * math.exp(2 * (1 - weight))
    assert metrics["phi"].item() == pytest.approx(phi, rel=1e-5)


def test_a_cap_is_not_rounded_to_half_precision():
    """64 tokens of bf16, each with old/mu = e^2 cut to 2: log W = 64 log 2, not 64 x bf16(0.69)."""
    ones = torch.ones(1, 64, dtype=torch.bfloat16)
    inputs = made(-8 * ones, ones, ones, -10 * ones, old_log_probs=-8 * ones)
    _, metrics = get_policy_loss("vespo", anchor="old", tis_cap=2.0)(inputs)
    assert metrics["log_w"].item() == pytest.approx(64 * math.log(2), rel=1e-6)


def test_a_cap_that_holds_nothing_back_is_the_rollout_anchor(random_inputs):
    inputs = random_inputs(6)
    capped = get_policy_loss("vespo", anchor="old", tis_cap=1e30)(inputs)
    assert capped[0] == VESPO(inputs)[0]
    assert torch.equal(capped[1]["log_w"], VESPO(inputs)[1]["log_w"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tis_cap": 2.0}, "already contains it, whole: set anchor 'old'"),
        ({"tis_cap": 0.0, "anchor": "old"}, "must be a positive number, got 0.0"),
        ({"tis_cap": math.nan, "anchor": "old"}, "must be a positive number, got nan"),
        ({"tis_cap": "two", "anchor": "old"}, "must be a positive number, got 'two'"),
    ],
)
def test_a_second_correction_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        get_policy_loss("vespo", **options)


def test_a_sum_over_tokens_is_equation_20_to_the_letter():
    """(1/2) sum over sequences of phi A sum over tokens of log pi, W = 1.4 and 0.5."""
    log_pi = torch.tensor([[0.5, 0.28], [0.1, 1.0]]).log().requires_grad_()
    log_mu = torch.tensor([[0.25, 0.4], [0.2, 1.0]]).log()
    mask = torch.tensor([[True, True], [True, False]])
    advantages = torch.tensor([[-1.0, -1.0], [3, 3]])
    inputs = made(log_pi, advantages, mask, log_mu, batch_num_tokens=99.0)
    get_policy_loss("vespo", loss_agg_mode="seq-mean-token-sum")(inputs)[0].backward()
    negative, positive = 1.4**3 * math.exp(2 * (1 - 1.4)), 0.5**2 * math.exp(3 * (1 - 0.5))
    expected = [[negative / 2] * 2, [-3 * positive / 2, 0]]
    torch.testing.assert_close(log_pi.grad, torch.tensor(expected))


def test_options_out_of_range_stop_before_the_run():
    with pytest.raises(ValueError, match=r"^c1_pos must be at least 0"):
        get_policy_loss("vespo", c1_pos=-0.5)
    with pytest.raises(ValueError, match=r"^shape must be one of published, pessimistic"):
        get_policy_loss("vespo", shape="optimistic")
    with pytest.raises(ValueError, match="length_normalisation"):
        get_policy_loss("vespo", length_normalisation="half")
    with pytest.raises(ValueError, match="anchor"):
        get_policy_loss("vespo", anchor="reference")
    with pytest.raises(ValueError, match="loss_agg_mode"):
        get_policy_loss("vespo", loss_agg_mode="sum")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("per_token", [False, True])
def test_the_gradient_is_the_coefficient_to_the_bit(dtype, per_token):
    """That of (coefficient * log_probs).sum(): no gradient of our own is needed for it."""
    generator = torch.Generator().manual_seed(0)
    log_probs = (-2 * torch.rand(5, 40, generator=generator)).to(dtype)
    mask = torch.rand(5, 40, generator=generator) < 0.7
    inputs = LossInputs(
        log_probs=log_probs.clone().requires_grad_(),
        advantages=torch.randn(5, 40, generator=generator).to(dtype),
        action_mask=mask,
    )
    weight = torch.rand(5, 40, generator=generator) if per_token else torch.rand(5).double()
    weighted_log_prob_loss(inputs, weight, "seq-mean-token-mean").backward()
    scale = -sequence_scale(inputs, "seq-mean-token-mean").unsqueeze(-1)
    signal = zero_masked(inputs.advantages, mask).double()
    if per_token:
        coefficient = signal * zero_masked(weight, mask) * scale
    else:
        coefficient = signal * (scale * weight.unsqueeze(-1))
    plain = log_probs.clone().requires_grad_()
    (coefficient.to(dtype) * zero_masked(plain, mask)).sum().backward()
    assert inputs.log_probs.grad.dtype == dtype
    assert torch.equal(inputs.log_probs.grad, plain.grad)
