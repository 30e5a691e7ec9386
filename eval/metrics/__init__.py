"""Estimators over repeated samples of the same problems, and their uncertainty.

`estimators` holds avg@k, pass@k and pass^k, `majority` maj@k, `intervals` the bootstrap over
problems, `summary` what one benchmark's records add up to.
numpy and, for McNemar's test, scipy; no model and no disk.
"""

from vespo_openrlhf.eval.metrics.estimators import Mean, avg_at_k, pass_at_k, pass_hat_k
from vespo_openrlhf.eval.metrics.intervals import bootstrap_interval
from vespo_openrlhf.eval.metrics.majority import maj_at_k
from vespo_openrlhf.eval.metrics.summary import ks_up_to, summarise

__all__ = [
    "Mean",
    "avg_at_k",
    "bootstrap_interval",
    "ks_up_to",
    "maj_at_k",
    "pass_at_k",
    "pass_hat_k",
    "summarise",
]
