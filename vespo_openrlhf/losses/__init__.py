"""Policy losses: tensors in, (loss, metrics) out, on torch and the standard library alone.

`LossInputs` is one micro-batch, `get_policy_loss(name, **options)` the loss: the function
NAME_loss of any module here. VESPO is vespo.py on kernel.py and ratios.py; its rivals are
weighted.py (a constant weight times A log pi), clipped.py (a gradient through the ratio) and a
file for each of the others. `summarise` turns the losses' per-sequence metrics into what a run
logs. A paper's formula stands in one place, here.
"""

from .diagnostics import sequence_metrics, summarise
from .inputs import LossInputs, aggregate
from .kernel import KernelOptions, kernel_bound, vespo_kernel
from .registry import POLICY_LOSS_NAMES, PolicyLoss, get_policy_loss, option_defaults
from .turns import split_turns

__all__ = [
    "POLICY_LOSS_NAMES",
    "KernelOptions",
    "LossInputs",
    "PolicyLoss",
    "aggregate",
    "get_policy_loss",
    "kernel_bound",
    "option_defaults",
    "sequence_metrics",
    "split_turns",
    "summarise",
    "vespo_kernel",
]
