import math

import mpmath
import pytest
import torch

from vespo_openrlhf.losses import (
    POLICY_LOSS_NAMES,
    get_policy_loss,
    summarise,
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
        "phi_mean": 1.501 / 3,
        "phi_max": 1.0,
        "phi_p05": 0.0509,  # linear between 0.001 and 0.5
        "phi_p50": 0.5,
        "phi_p95": 0.95,
        "phi_mean_positive": 1.0,
        "phi_mean_negative": 0.5,
        "phi_small_share": 1 / 3,
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
    loss = get_policy_loss(name)
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
        "lag_0/phi_mean": 0.2505,
        "lag_0/phi_small_share": 0.5,
        "lag_1/num_samples": 1,
        "lag_1/log_w_mean": -math.log(2),
        "lag_1/log_w_abs_mean": math.log(2),
        "lag_1/ess_ratio": 1,
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
