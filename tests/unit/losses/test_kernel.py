import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vespo_openrlhf.losses import KernelOptions, kernel_bound, vespo_kernel

mpmath.mp.dps = 50
SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


def exact(log_w: float, c1: float, c2: float) -> mpmath.mpf:
    log_w, c1, c2 = mpmath.mpf(log_w), mpmath.mpf(c1), mpmath.mpf(c2)
    return mpmath.exp(c1 * log_w + c2 * (1 - mpmath.exp(log_w)))


def assert_equals_exact(phi, truth):
    assert math.isfinite(phi)
    if truth >= SMALLEST_NORMAL:
        assert abs(phi - truth) <= 1e-6 * truth
    else:
        assert 0 <= phi <= 1.01 * SMALLEST_NORMAL


@pytest.mark.parametrize(
    "coefficients",
    [(2, 3, 3, 2), (3, 2, 3, 2), (1, 0.1, 7.3, 12.9), (2.1, 3.3, 1, 1), (0.5, 1.5, 0, 2)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_fifty_digits(coefficients, dtype):
    generator = torch.Generator().manual_seed(0)

    def uniform(low, high, n=400):
        return low + (high - low) * torch.rand(n, generator=generator, dtype=torch.float64)

    near_one = torch.tensor([0.0, 1e-30, -1e-30, 1e-7, -1e-7, 1e-3, 3.0, 200, -200, 88.8, 1e-45])
    log_w = torch.cat([uniform(-200, 200), uniform(-50, 5), uniform(-1e-3, 1e-3), near_one])
    log_w = log_w.to(dtype)
    advantages = torch.randn(log_w.shape, generator=generator)
    phi = vespo_kernel(log_w, advantages, *coefficients)
    assert phi.dtype == dtype
    for value, x, advantage in zip(phi.tolist(), log_w.tolist(), advantages.tolist(), strict=True):
        c1, c2 = coefficients[:2] if advantage >= 0 else coefficients[2:]
        assert_equals_exact(value, exact(x, c1, c2))


def test_defaults_by_hand():
    w = torch.tensor([1.4, 1.4, 1.0, 0.5])
    phi = vespo_kernel(w.log(), torch.tensor([1.0, -1.0, 0.0, 0.0]))
    by_hand = [1.4**2 * math.exp(-1.2), 1.4**3 * math.exp(-0.8), 1.0, 0.25 * math.exp(1.5)]
    torch.testing.assert_close(phi, torch.tensor(by_hand))


def test_infinite_weights_have_no_say():
    log_w = torch.tensor([torch.inf, -torch.inf, 1e30])
    for c1 in (2, 0.5, 1e-3):
        assert vespo_kernel(log_w, torch.ones(3), c1).tolist() == [0, 0, 0]


def test_without_a_power_of_w_a_response_that_is_given_up_counts_most():
    phi = vespo_kernel(torch.tensor([torch.inf, -torch.inf, 0]), torch.ones(3), c1_pos=0, c2_pos=2)
    torch.testing.assert_close(phi, torch.tensor([0, math.exp(2), 1]))


c1s = st.one_of(st.just(0.0), st.floats(1e-3, 10))
c2s = st.floats(0.05, 10)


@given(st.floats(-200, 200, width=32), c1s, c2s, c1s, c2s, st.sampled_from([-1.0, 0.0, 1.0]))
def test_bounded(log_w, c1_pos, c2_pos, c1_neg, c2_neg, advantage):
    phi = vespo_kernel(
        torch.tensor([log_w]), torch.tensor([advantage]), c1_pos, c2_pos, c1_neg, c2_neg
    ).item()
    bound = kernel_bound(*((c1_pos, c2_pos) if advantage >= 0 else (c1_neg, c2_neg)))
    assert 0 <= phi <= bound * (1 + 1e-6)


@given(c1s, c2s)
def test_bound_is_reached_at_c1_over_c2(c1, c2):
    peak = torch.tensor([c1 / c2], dtype=torch.float64).log()  # -inf where c1 = 0
    phi = vespo_kernel(peak, torch.ones(1), c1, c2).item()
    assert phi == pytest.approx(kernel_bound(c1, c2), rel=1e-12)


@given(c1s, c2s, c1s, c2s, st.floats(-5, 5))
def test_one_on_policy(c1_pos, c2_pos, c1_neg, c2_neg, advantage):
    phi = vespo_kernel(torch.zeros(1), torch.tensor([advantage]), c1_pos, c2_pos, c1_neg, c2_neg)
    assert phi.item() == 1.0  # exactly: on-policy VESPO is REINFORCE


@given(st.floats(-200, 200, width=32), c1s, c2s, c1s, c2s, st.sampled_from([-1.0, 0.0, 1.0]))
def test_pessimistic_is_phi_where_the_step_was_asked_for_and_one_elsewhere(
    log_w, c1_pos, c2_pos, c1_neg, c2_neg, advantage
):
    coefficients = c1_pos, max(c1_pos, c2_pos), max(c1_neg, c2_neg), c2_neg
    log_w, advantage = torch.tensor([log_w]), torch.tensor([advantage])
    phi = vespo_kernel(log_w, advantage, *coefficients, shape="pessimistic").item()
    if log_w < 0 if advantage >= 0 else log_w > 0:
        assert phi == 1.0
    else:
        assert phi == vespo_kernel(log_w, advantage, *coefficients).item()


@given(
    st.lists(st.floats(-300, 300), min_size=2, max_size=2),
    *[st.floats(-10, 10), st.floats(0, 10), st.floats(0, 10), st.floats(0, 10)],
    st.sampled_from([-1.0, 1.0]),
)
def test_pessimistic_is_at_most_one_and_falls_with_every_step_away(
    log_ws, c1_pos, more_pos, c2_neg, more_neg, advantage
):
    c2_pos, c1_neg = max(0.0, c1_pos + more_pos), c2_neg + more_neg
    nearer, further = sorted(log_ws, key=lambda log_w: advantage * log_w)
    phi = vespo_kernel(
        torch.tensor([nearer, further], dtype=torch.float64),
        torch.full((2,), advantage),
        *(c1_pos, c2_pos, c1_neg, c2_neg),
        shape="pessimistic",
    )
    assert 0 <= phi[1] <= phi[0] <= 1


def test_pessimistic_by_hand():
    log_w = torch.tensor([2.0, 0.5, 0.5, 2.0, torch.inf, 0.0, 0.0, torch.inf]).log()
    advantages = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
    phi = vespo_kernel(log_w, advantages, shape="pessimistic")
    by_hand = [4 * math.exp(-3), 1, 0.125 * math.e, 1, 0, 1, 0, 1]
    torch.testing.assert_close(phi, torch.tensor(by_hand))
    with pytest.raises(ValueError, match="shape must be one of published, pessimistic, not 'mild'"):
        vespo_kernel(log_w, advantages, shape="mild")


@given(st.lists(st.floats(-300, 300), min_size=1), st.sampled_from([-1.0, 1.0]))
def test_pessimistic_has_the_tapers_among_its_coefficients(log_ws, advantage):
    log_w = torch.tensor([*log_ws, torch.inf, -torch.inf], dtype=torch.float64)
    w, advantages = log_w.exp(), torch.full(log_w.shape, advantage)

    def phi(*coefficients):
        return vespo_kernel(log_w, advantages, *coefficients, shape="pessimistic")

    tapered = (1 / w if advantage > 0 else w).clamp(max=1)
    torch.testing.assert_close(phi(-1, 0, 1, 0), tapered)
    torch.testing.assert_close(phi(0, 0, 1, 0), torch.ones_like(w) if advantage > 0 else tapered)
    assert (phi(0, 0, 0, 0) == 1).all()


@settings(max_examples=20)
@given(st.floats(-5, 5, width=32))
def test_no_gradient(log_w):
    log_w = torch.tensor([log_w], requires_grad=True)
    assert not vespo_kernel(log_w, torch.ones(1)).requires_grad


def test_published_bounds():
    assert kernel_bound(2, 3) == pytest.approx(1.208, abs=5e-4)
    assert kernel_bound(3, 2) == pytest.approx(1.242, abs=5e-4)


@pytest.mark.parametrize("c1", [0.0, 0.25, 0.5, 0.99, 1.0, 2.0])
def test_what_c1_below_one_means(c1):
    """phi is bounded for all of these; phi/W near W = 0, the weight against what the policy samples
    itself, only from 1 on."""
    log_w = torch.linspace(-300, 5, 4000, dtype=torch.float64)
    phi = vespo_kernel(log_w, torch.ones(()), c1_pos=c1, c2_pos=1.5)
    assert phi.max() <= kernel_bound(c1, 1.5) * (1 + 1e-12)
    assert kernel_bound(c1, 1.5) <= math.exp(1.5)
    largest = (phi / log_w.exp()).max()
    assert (largest > 2 * math.exp(1.5)) == (c1 < 1)
    assert kernel_bound(0.5, 1.5) == pytest.approx(1.569, abs=5e-4)


@pytest.mark.parametrize(
    ("coefficients", "message"),
    [
        ({"c1_pos": 3.5}, "c2_pos must be at least 0 and c1_pos, not 3.0: or phi rises above 1"),
        ({"c1_neg": 1.5}, "c1_neg must be at least c2_neg, not 1.5: or phi rises above 1"),
        ({"c1_pos": -2.0, "c2_pos": -1.0}, "c2_pos must be at least 0 and c1_pos, not -1.0"),
        ({"c2_neg": -1.0}, "c2_neg must be at least 0, not -1.0"),
        ({"c2_neg": math.nan}, "c2_neg must be finite"),
        ({"c1_pos": -math.inf}, "c1_pos must be finite"),
    ],
)
def test_what_the_pessimistic_shape_refuses(coefficients, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        KernelOptions(**coefficients, shape="pessimistic")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("c1_pos", -0.01),
        ("c1_neg", -1.0),
        ("c2_pos", 0.0),
        ("c2_neg", -1.0),
        ("c1_pos", math.nan),
        ("c2_neg", math.inf),
    ],
)
def test_coefficients_out_of_range_name_the_flag(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*{value}"):
        KernelOptions(**{name: value})
    with pytest.raises(ValueError, match=rf"^{name}"):
        vespo_kernel(torch.zeros(1), torch.zeros(1), **{name: value})
