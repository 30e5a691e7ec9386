"""Who may generate, what is too old, what trains next: asynchronous rollouts.

Standard library only. Mechanism: `Scheduler` is the loop, over the protocols `Engine` and
`Trainer`; ledger.py has the account of every prompt, groups.py and live.py the groups,
outcomes.py what becomes of them, engines.py and sync.py load and weights, training.py the trainer's
side, metrics.py what a batch tells. Policy: policy.py says what is asked of one, answers.py checks
what it says, `policies/` has a file for each; lag.py has versions and what a bound leaves room for,
adaptive.py the working lag. bench.py measures what the scheduler costs.
"""

from .groups import Batch, Group
from .lag import LagBudget, LagOptions, TokenVersions
from .ledger import Prompt, PromptLedger
from .metrics import BatchReport
from .options import SchedulerConfig
from .policies import make_policy
from .policy import Choice, Policy, PolicyError, Send, View
from .protocols import Engine, Request, Trainer, TrainStep
from .scheduler import Scheduler

__all__ = [
    "Batch",
    "BatchReport",
    "Choice",
    "Engine",
    "Group",
    "LagBudget",
    "LagOptions",
    "Policy",
    "PolicyError",
    "Prompt",
    "PromptLedger",
    "Request",
    "Scheduler",
    "SchedulerConfig",
    "Send",
    "TokenVersions",
    "TrainStep",
    "Trainer",
    "View",
    "make_policy",
]
