"""What engine mismatch leaves of the gradient: the table of docs/choosing-n-and-lag.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from vespo_openrlhf.losses.kernel import vespo_kernel

PAGE = Path(__file__).parents[3] / "docs" / "choosing-n-and-lag.md"
ROWS = re.findall(
    r"^\| ([\d.]+) \| (\d\.\d\d) \| (\d\.\d\d) \| T = ([\d,]+), s = (\.\d+) \|$",
    PAGE.read_text(),
    re.M,
)


def truthful(variance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """log W ~ N(-v/2, v), so that E W = 1, on a grid; and the grid's weights."""
    z = torch.linspace(-12, 12, 24001, dtype=torch.float64)
    density = torch.exp(-z.square() / 2)
    return variance**0.5 * z - variance / 2, density / density.sum()


def mean_phi(variance: float, sign: float) -> float:
    log_w, weights = truthful(variance)
    return (weights * vespo_kernel(log_w, torch.full_like(log_w, sign))).sum().item()


def test_the_table_is_there() -> None:
    assert len(ROWS) == 7


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_of_the_table(row: tuple[str, ...]) -> None:
    variance, good, bad = map(float, row[:3])
    tokens, deviation = float(row[3].replace(",", "")), float(row[4])
    assert tokens * deviation**2 == pytest.approx(variance)
    assert mean_phi(variance, 1.0) == pytest.approx(good, abs=0.005)
    assert mean_phi(variance, -1.0) == pytest.approx(bad, abs=0.005)


def test_the_words_beside_the_table() -> None:
    """At T s^2 = 1: half for bad responses, 1.4 times as much for good ones, mean |log W| 0.9."""
    log_w, weights = truthful(1.0)
    assert (weights * log_w.exp()).sum().item() == pytest.approx(1.0)
    assert (weights * log_w.abs()).sum().item() == pytest.approx(0.9, abs=0.01)
    assert mean_phi(1.0, -1.0) == pytest.approx(0.5, abs=0.01)
    ratios = [mean_phi(v, 1.0) / mean_phi(v, -1.0) for v in (1.0, 1.6, 6.4, 16.0)]
    assert ratios[0] == pytest.approx(1.4, abs=0.01)
    assert ratios == sorted(ratios)
