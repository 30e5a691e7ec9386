"""Who may generate, what is too old, what trains next: asynchronous rollouts under a lag bound.

Standard library only. `Scheduler` is the loop, over the protocols `Engine` and `Trainer`; lag.py
has versions and the budget, groups.py the groups and the choice of the next batch, prompts.py the
account of every prompt, engines.py and sync.py load and weights, adaptive.py the working lag,
metrics.py what a batch tells. simulate.py runs the same scheduler in simulated time, on the
cluster of cluster.py and workload.py; bench.py measures what the scheduler costs.
"""

from .config import SchedulerConfig
from .groups import Batch, Group
from .lag import LagBudget, LagOptions, TokenVersions
from .metrics import BatchReport
from .prompts import Prompt, PromptLedger
from .protocols import Engine, Request, Trainer, TrainStep
from .scheduler import Scheduler

__all__ = [
    "Batch",
    "BatchReport",
    "Engine",
    "Group",
    "LagBudget",
    "LagOptions",
    "Prompt",
    "PromptLedger",
    "Request",
    "Scheduler",
    "SchedulerConfig",
    "TokenVersions",
    "TrainStep",
    "Trainer",
]
