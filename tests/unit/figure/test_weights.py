"""phi and f, measured on the losses, against what the papers say they are."""

import math
from pathlib import Path

import pytest
import torch

from vespo_openrlhf.figure.__main__ import main
from vespo_openrlhf.figure.weights import curves, draw, phi
from vespo_openrlhf.losses import get_policy_loss, vespo_kernel


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("tokens", [1, 50])
def test_vespos_are_its_kernel_and_the_incomplete_gamma_function(sign: int, tokens: int) -> None:
    """arXiv 2602.10693, section 3.3: f(W) is the integral of w^(c1 - 1) exp(c2 (1 - w))."""
    w, coefficient, surrogate = curves(get_policy_loss("vespo"), sign, tokens)
    log_w = torch.tensor(w, dtype=torch.float64).log()
    kernel = vespo_kernel(log_w, torch.full_like(log_w, sign))
    torch.testing.assert_close(
        torch.tensor(coefficient, dtype=torch.float64), kernel, rtol=1e-5, atol=1e-9
    )
    c1, c2 = (2.0, 3.0) if sign > 0 else (3.0, 2.0)
    gamma = torch.special.gammainc(torch.tensor(c1).double(), c2 * log_w.exp())
    at_1 = torch.special.gammainc(torch.tensor(c1).double(), torch.tensor(c2).double())
    exact = 1 + math.exp(c2) * c2**-c1 * math.gamma(c1) * (gamma - at_1)
    torch.testing.assert_close(
        torch.tensor(surrogate, dtype=torch.float64), exact, atol=1e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("name", "w", "sign", "tokens", "expected"),
    [
        ("ppo", 1.2, 1, 1, 1.2),
        ("ppo", 1.3, 1, 1, 0.0),  # above the clip of 0.28
        ("ppo", 0.7, 1, 1, 0.7),
        ("ppo", 0.7, -1, 1, 0.0),
        ("ppo", 3.0, 1, 1000, 3 ** (1 / 1000)),  # no token's ratio is far from 1
        ("gspo", 1.4, 1, 1000, 1.4 ** (1 / 1000)),  # eq. 8: the geometric mean of the ratios
        ("gspo", 1.5, 1, 1000, 0.0),  # above exp(1000 * 4e-4) = 1.49
        ("gspo", 0.7, -1, 1000, 0.0),  # below exp(-1000 * 3e-4) = 0.74
        ("topr", 3.0, 1, 10, 1.0),
        ("topr", 0.3, -1, 10, 0.3),
        ("reinforce", 3.0, -1, 10, 1.0),
    ],
)  # fmt: skip
def test_rivals(name: str, w: float, sign: int, tokens: int, expected: float) -> None:
    found = phi(get_policy_loss(name), math.log(w), sign, tokens)
    assert found == pytest.approx(expected, rel=1e-6)


def test_sapos_is_its_gates_slope() -> None:
    """arXiv 2511.20347: f = 4 / tau sigmoid(tau (r - 1)), so r f' = 4 s (1 - s) r."""
    for w, sign, tau in ((0.5, 1, 1.0), (2.0, 1, 1.0), (2.0, -1, 1.05)):
        s = 1 / (1 + math.exp(-tau * (w - 1)))
        found = phi(get_policy_loss("sapo"), math.log(w), sign)
        assert found == pytest.approx(4 * s * (1 - s) * w, rel=1e-6)


@pytest.mark.parametrize("name", ["vespo", "ppo", "cispo"])
def test_every_f_goes_through_one_at_one(name: str) -> None:
    w, _, surrogate = curves(get_policy_loss(name), 1)
    index = min(range(len(w)), key=lambda i: abs(w[i] - 1))
    assert (w[index], surrogate[index]) == pytest.approx((1.0, 1.0))
    assert w[0] <= 0.0051
    assert w[-1] >= 4


def test_the_command_writes_the_same_file_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.py"
    own.write_text("def plain(inputs):\n    return -inputs.log_probs.sum(), {}\n")
    texts = []
    for name in ("a.svg", "b.svg"):
        out = tmp_path / "new" / name
        assert main(["weights", "vespo,shape=pessimistic", f"{own}:plain", "--out", str(out)]) == 0
        assert capsys.readouterr().out == f"{out}\n"
        texts.append(out.read_text())
    assert texts[0] == texts[1]
    assert ">vespo, shape=pessimistic<" in texts[0]
    assert ">plain<" in texts[0]


def test_two_losses_of_one_name_are_two_lines(tmp_path: Path) -> None:
    for name, factor in (("a", 1), ("b", 2)):
        text = f"def f(inputs):\n    return -{factor} * inputs.log_probs.sum(), {{}}\n"
        (tmp_path / f"{name}.py").write_text(text)
    drawing = draw([f"{tmp_path / 'a.py'}:f", f"{tmp_path / 'b.py'}:f"])
    assert [len(axes.lines) for axes in drawing.axes] == [2, 2, 2, 2]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["weights", "vesbo"], "unknown policy loss 'vesbo'"),
        (["weights", "vespo,shape"], "write shape=VALUE after the comma"),
        (["weights", "--tokens", "0"], "at least one"),
        (["weights", "vespo", "--out", "x.jpgg"], "jpgg"),
        (["training", "nowhere"], "there is no such folder"),
    ],
)
def test_what_the_user_can_mend_is_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
