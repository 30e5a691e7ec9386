"""One optimizer step at a part of its learning rate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def scaled(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[None]:
    """Within it, the learning rate of every parameter group is `factor` times its own.

    DeepSpeed's `step` also moves the scheduler on, which sets the next step's rate: that is left.
    """
    if factor == 1:
        yield
        return
    own = [group["lr"] for group in optimizer.param_groups]
    used = [lr * factor for lr in own]
    for group, lr in zip(optimizer.param_groups, used, strict=True):
        group["lr"] = lr
    try:
        yield
    finally:
        for group, before, lr in zip(optimizer.param_groups, own, used, strict=True):
            if group["lr"] == lr:
                group["lr"] = before
