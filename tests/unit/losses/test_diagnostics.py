import math

import mpmath
import pytest
import torch

from vespo_openrlhf.losses import (
    POLICY_LOSS_NAMES,
    LossInputs,
    get_policy_loss,
    summarise,
    vespo_kernel,
)
from vespo_openrlhf.losses.diagnostics import summarise_by_lag


def per_sequence(log_w, advantage, num_tokens=None, **more):
    tensors = {"log_w": log_w, "advantage": advantage, **more}
    tensors["num_tokens"] = num_tokens or [3.0] * len(log_w)
    return {name: torch.tensor(values) for name, values in tensors.items()}


def test_by_hand():
    summary = summarise(
        per_sequence(
            log_w=[0.0, math.log(3.0), -1.0, 99.0],
            advantage=[1.0, -1.0, 0.0, 1.0],
            num_tokens=[3.0, 1.0, 5.0, 0.0],  # the last has no action token: left out
            phi=[1.0, 0.5, 0.001, 7.0],
        )
    )
    log_3, w = math.log(3), [1, 3, math.exp(-1)]
    by_hand = {
        "num_positive": 1,
        "num_negative": 1,
        "num_zero": 1,
        "log_w_mean": (log_3 - 1) / 3,
        "log_w_max": log_3,
        "log_w_std": math.sqrt((log_3**2 + 1) / 3 - ((log_3 - 1) / 3) ** 2),
        "log_w_abs_mean": (log_3 + 1) / 3,
        "log_w_p05": -0.9,  # linear between -1 and 0
        "log_w_p50": 0.0,
        "log_w_p95": 0.9 * log_3,
        "ess_ratio": sum(w) ** 2 / sum(x * x for x in w) / 3,
        "log_mean_w": math.log(sum(w) / 3),
        "log1p_chi_square": math.log(sum(x * x for x in w) / 3),
        "phi_mean": 1.501 / 3,
        "phi_max": 1.0,
        "phi_p05": 0.0509,  # linear between 0.001 and 0.5
        "phi_p50": 0.5,
        "phi_p95": 0.95,
        "phi_mean_positive": 1.0,
        "phi_mean_negative": 0.5,
        "phi_small_share": 1 / 3,
        "phi_ess_ratio": 1.5**2 / 1.25 / 2,  # A = 0 has no weight in the gradient
        "phi_balance": 2.0,
    }
    assert set(summary) == set(by_hand)
    for name, value in by_hand.items():
        assert summary[name].item() == pytest.approx(value, rel=1e-6, abs=1e-7), name
        assert summary[name].dtype == torch.float32
        assert summary[name].dim() == 0


@pytest.mark.parametrize("scale", [0.0, 0.1, 3.0, 200.0])
@pytest.mark.parametrize("shift", [-200.0, 0.0, 200.0])
def test_effective_sample_size_to_fifty_digits(scale, shift):
    generator = torch.Generator().manual_seed(0)
    log_w = (scale * (2 * torch.rand(64, generator=generator) - 1) + shift).clamp(-200, 200)
    with mpmath.workdps(50):
        w = [mpmath.exp(mpmath.mpf(x)) for x in log_w.tolist()]
        exact = mpmath.fsum(w) ** 2 / mpmath.fsum(x * x for x in w) / 64
    ess = summarise(per_sequence(log_w.tolist(), [1.0] * 64))["ess_ratio"].item()
    assert ess == pytest.approx(float(exact), rel=1e-6)
    assert ess <= 1 + 1e-6


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (0.0, {"ess_ratio": 1, "phi_ess_ratio": 1, "phi_balance": 1, "log_mean_w": 0}),
        (0.01, {"ess_ratio": 0.22, "phi_ess_ratio": 0.56, "phi_balance": 1.5, "log_mean_w": 0}
            | {"phi_mean_positive": 0.59, "phi_mean_negative": 0.39}),
        (0.02, {"ess_ratio": 0.017, "phi_ess_ratio": 0.20, "phi_balance": 1.8, "log_mean_w": -0.1}
            | {"phi_mean_positive": 0.21, "phi_mean_negative": 0.115}),
    ],
)  # fmt: skip
def test_the_ess_of_w_is_not_that_of_what_the_loss_makes_of_it(noise, expected):
    """The table of docs/reading-the-metrics.md: responses of 16,384 tokens at lag 0, from an
    engine that is truthful but for an error of `noise` per token: log W ~ N(-T s^2 / 2, T s^2).
    Medians over 50 batches of 2,048."""
    variance = 16_384 * noise**2
    generator = torch.Generator().manual_seed(0)
    advantage = torch.tensor([1.0, -1.0]).repeat(1024)
    found = []
    for _ in range(50):
        log_w = variance**0.5 * torch.randn(2048, generator=generator) - variance / 2
        phi = vespo_kernel(log_w, advantage)
        tokens = torch.full_like(log_w, 16_384)
        found.append(
            summarise({"log_w": log_w, "advantage": advantage, "num_tokens": tokens, "phi": phi})
        )
    medians = {name: torch.stack([f[name] for f in found]).median().item() for name in expected}
    assert medians == pytest.approx(expected, rel=0.05, abs=0.02)
    # The true value, exp(-T s^2), is .0014 at .02: a batch seldom holds the W that make it so.
    assert medians["ess_ratio"] > math.exp(-variance) - 0.02


def test_no_sequence_at_all():
    summary = summarise(per_sequence([0.0], [1.0], num_tokens=[0.0], phi=[1.0]))
    assert {name for name, value in summary.items() if not value.isnan()} == {
        "num_positive", "num_negative", "num_zero",
    }  # fmt: skip
    assert summary["num_positive"] == 0


def test_one_sequence():
    summary = summarise(per_sequence([0.5], [-1.0]))
    assert summary["log_w_std"] == 0
    assert summary["ess_ratio"] == pytest.approx(1)
    assert "phi_mean" not in summary


@pytest.mark.parametrize("name", POLICY_LOSS_NAMES)
def test_metrics_of_micro_batches_concatenate_to_those_of_the_batch(random_inputs, name):
    """A per-sequence metric of a sequence is its own, whatever it was batched with."""
    # Its own bounds leave no sequence of these, and no effective sample size.
    loss = get_policy_loss(name, **({"weight_low": 0.5} if name == "geo_mask" else {}))
    parts = [loss(loss.with_own_statistics(random_inputs(seed)))[1] for seed in range(3)]
    per_sequence = {
        key: torch.cat([part[key] for part in parts])
        for key, value in parts[0].items()
        if value.dim() == 1
    }
    summary = summarise(per_sequence)
    assert per_sequence["num_tokens"].shape == (18,)
    counts = summary["num_positive"] + summary["num_negative"] + summary["num_zero"]
    assert counts == 15  # one fully masked row in each batch
    assert all(value.isfinite() for value in summary.values())
    assert not any(metric.requires_grad for part in parts for metric in part.values())


def test_by_lag_by_hand():
    """W = 2 and 4 at lag 0, 1/2 at 1, and one of lag 8 without action tokens, left out."""
    data = per_sequence(
        log_w=[math.log(2), math.log(4), -math.log(2), 50.0],
        advantage=[1.0, -1.0, 1.0, 1.0],
        num_tokens=[2.0, 3.0, 1.0, 0.0],
        phi=[0.5, 0.001, 0.25, 7.0],
        lag=[0.0, 0.0, 1.0, 8.0],
    )
    by_hand = {
        "lag_0/num_samples": 2,
        "lag_0/log_w_mean": 1.5 * math.log(2),
        "lag_0/log_w_abs_mean": 1.5 * math.log(2),
        "lag_0/ess_ratio": (2 + 4) ** 2 / (4 + 16) / 2,
        "lag_0/log_mean_w": math.log(3),
        "lag_0/phi_ess_ratio": 0.501**2 / (0.5**2 + 0.001**2) / 2,
        "lag_0/phi_mean": 0.2505,
        "lag_0/phi_small_share": 0.5,
        "lag_1/num_samples": 1,
        "lag_1/log_w_mean": -math.log(2),
        "lag_1/log_w_abs_mean": math.log(2),
        "lag_1/ess_ratio": 1,
        "lag_1/log_mean_w": -math.log(2),
        "lag_1/phi_ess_ratio": 1,
        "lag_1/phi_mean": 0.25,
        "lag_1/phi_small_share": 0,
    }
    summary = summarise_by_lag(data)
    assert {name: value.item() for name, value in summary.items()} == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("lag", "name"),
    [(0, "lag_0"), (1, "lag_1"), (2, "lag_2_3"), (3, "lag_2_3"), (4, "lag_4_7"), (7, "lag_4_7"),
     (8, "lag_8_15"), (1023, "lag_512_1023"), (1024, "lag_1024_2047")],
)  # fmt: skip
def test_ranges_of_lags(lag, name):
    data = per_sequence(log_w=[0.0], advantage=[1.0], lag=[float(lag)])
    assert {key.split("/")[0] for key in summarise_by_lag(data)} == {name}


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("reinforce", {}, [1.0, 1.0, 0.0]),
        ("topr", {}, [1.0, 0.25, 0.0]),
        ("tis", {"level": "sequence", "cap": 2.0}, [2.0, 0.25, 0.0]),
        ("tis", {"level": "token", "cap": 2.0}, [1.5, 0.5, 0.0]),
        ("cispo", {"weight_high": 3.0}, [2.0, 0.5, 0.0]),
    ],
)
def test_losses_with_a_constant_weight_report_it(name, options, expected):
    """Token ratios 4 and 1, then 1/2 and 1/2; the mean over tokens where it is one per token."""
    ratios = torch.tensor([[4.0, 1.0], [0.5, 0.5], [1.0, 1.0]])
    if name == "reinforce":
        expected = [1.0, 1.0, 1.0]
    inputs = LossInputs(
        log_probs=ratios.log(),
        old_log_probs=None,
        advantages=torch.tensor([[1.0], [-1.0], [1.0]]).expand(3, 2),
        action_mask=torch.tensor([[1, 1], [1, 1], [0, 0]]),
        rollout_log_probs=torch.zeros(3, 2),
    )
    _, metrics = get_policy_loss(name, **options)(inputs)
    present = metrics["num_tokens"] > 0
    assert metrics["phi"][present].tolist() == pytest.approx(expected[:2])
    assert metrics["phi"].dtype == torch.float32
    log_w = [math.log(4), math.log(0.25)]
    assert metrics["log_w"][present].tolist() == pytest.approx(log_w)


@pytest.mark.parametrize("name", POLICY_LOSS_NAMES)
def test_every_loss_tells_of_log_w_from_its_anchor(random_inputs, name):
    loss = get_policy_loss(name)
    inputs = loss.with_own_statistics(random_inputs(0))
    _, metrics = loss(inputs)
    difference = torch.where(inputs.mask, inputs.log_probs - inputs.rollout_log_probs, 0.0)
    assert {"log_w", "advantage", "num_tokens"} <= set(metrics)
    torch.testing.assert_close(metrics["log_w"], difference.detach().sum(-1).float())
    if "anchor" in loss.options:
        _, metrics = get_policy_loss(name, anchor="old")(inputs)
        difference = torch.where(inputs.mask, inputs.log_probs - inputs.old_log_probs, 0.0)
        torch.testing.assert_close(metrics["log_w"], difference.detach().sum(-1).float())


def test_a_users_loss_is_described_too(tmp_path, random_inputs):
    own = tmp_path / "own.py"
    own.write_text(
        "def plain(inputs):\n    return -inputs.log_probs.mean(), {'phi': inputs.log_probs**2}\n"
    )
    _, metrics = get_policy_loss(f"{own}:plain")(random_inputs(0))
    assert set(metrics) == {"log_w", "phi", "advantage", "num_tokens"}
    assert metrics["phi"].shape == metrics["log_w"].shape
