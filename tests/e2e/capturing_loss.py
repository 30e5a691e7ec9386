"""VESPO as a user's own loss: the same function, and each call's tensors kept for the test."""

import itertools
import os
from pathlib import Path

import torch

from vespo_openrlhf.losses import get_policy_loss

_CALLS = itertools.count()
_VESPO = get_policy_loss("vespo")


def capture(inputs):
    loss, metrics = _VESPO(inputs)
    (gradient,) = torch.autograd.grad(loss, inputs.log_probs, retain_graph=True)
    tensors = {name: value for name, value in vars(inputs).items() if value is not None}
    folder = Path(os.environ["VESPO_TEST_CAPTURE"])
    torch.save(
        {**tensors, "log_probs": inputs.log_probs.detach(), "loss": loss.detach()}
        | {"gradient": gradient},
        folder / f"{next(_CALLS):03d}.pt",
    )
    return loss, metrics
