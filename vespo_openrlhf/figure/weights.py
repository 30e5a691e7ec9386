"""phi(W) and f(W) of policy losses, measured on the losses themselves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from vespo_openrlhf.losses import LossInputs, PolicyLoss, get_policy_loss
from vespo_openrlhf.options import split_options
from vespo_openrlhf.pages import line_style, plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOSSES = ("vespo", "sapo", "gspo", "ppo")
# As in the paper's figure 2.
_W_LIMIT, _LIMITS = 4.0, ((-1.0, 3.0), (0.0, 3.0))
_LEAST_W, _POINTS = 0.005, 400


def phi(loss: PolicyLoss, log_w: float, sign: int, tokens: int = 1) -> float:
    """The coefficient of grad log pi in a loss's gradient: phi(W) of eq. 4, arXiv 2602.10693.

    Args:
        loss: with its options; its log-probs are all there.
        log_w: of a response, spread evenly over its tokens. With 1, W is a token's ratio as well.
        sign: of the advantage, 1 or -1.
        tokens: of the response.
    """
    zeros = torch.zeros(1, tokens, dtype=torch.float64)
    log_probs = torch.full_like(zeros, log_w / tokens).requires_grad_()
    inputs = LossInputs(
        log_probs=log_probs,
        advantages=zeros + sign,
        action_mask=zeros + 1,
        rollout_log_probs=zeros,
        old_log_probs=zeros,
    )
    value, _ = loss(loss.with_own_statistics(inputs))
    value.backward()
    assert log_probs.grad is not None
    return -sign * float(log_probs.grad.sum())


def curves(
    loss: PolicyLoss, sign: int, tokens: int = 1
) -> tuple[list[float], list[float], list[float]]:
    """W, phi(W) and f(W) with phi = W f', the surrogate whose gradient the loss follows.

    A gradient knows f up to a constant: f(1) = 1 here, whatever the loss.
    """
    step = (math.log(_W_LIMIT) - math.log(_LEAST_W)) / _POINTS
    below = math.ceil(-math.log(_LEAST_W) / step)
    # log W = 0 is one of the points.
    log_w = [step * i for i in range(-below, _POINTS - below + 2)]
    values = [phi(loss, x, sign, tokens) for x in log_w]
    integral = [0.0]
    for before, after in itertools.pairwise(values):
        integral.append(integral[-1] + step * (before + after) / 2)
    shift = 1 - integral[below]
    return [math.exp(x) for x in log_w], values, [value + shift for value in integral]


def draw(names: Sequence[str] = LOSSES, tokens: int = 1) -> Figure:
    """f above and phi below, for both signs of the advantage, a line per loss.

    Args:
        names: of losses, or where a user's own are found, each with what options it is to have,
            see `options.split_options`.
        tokens: see `phi`.

    Raises:
        ValueError: no such loss, or no such option of it.
    """
    from matplotlib.figure import Figure

    losses = []
    for text in names:
        name, options = split_options(text)
        label = ", ".join([name.rpartition(":")[2], *text.split(",")[1:]])
        losses.append((label, get_policy_loss(name, **options)))
    with plotting():
        drawing = Figure(figsize=(7.2, 5.4))
        panels = drawing.subplots(2, 2, sharex=True, sharey="row")
        for column, (sign, text) in enumerate(((1, "A > 0"), (-1, "A < 0"))):
            above, below = panels[0][column], panels[1][column]
            for index, (label, loss) in enumerate(losses):
                w, coefficient, surrogate = curves(loss, sign, tokens)
                style = line_style(index) | {"zorder": 3 - index / len(losses)}
                above.plot(w, surrogate, label=label if column == 0 else None, **style)
                below.plot(w, coefficient, **style)
            above.set_title(f"f(W), {text}")
            below.set_title(f"φ(W) = W f′(W), {text}")
            above.set_ylim(_LIMITS[0])
            below.set(xlim=(0, _W_LIMIT), ylim=_LIMITS[1])
            below.set_xlabel("W" if tokens == 1 else f"W of a response of {tokens:,} tokens")
        drawing.legend(loc="outside upper center", ncols=len(losses))
    return drawing
