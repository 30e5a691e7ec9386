"""Run by test_secrets: OpenRLHF's own wandb logger, offline, on the flags as we hand them over."""

import sys

from vespo_openrlhf import cpu

cpu.install()

from openrlhf.utils.config import hierarchize  # noqa: E402
from openrlhf.utils.logging_utils import WandbLogger  # noqa: E402

from vespo_openrlhf.redact import hide  # noqa: E402

# Not among the arguments, which wandb keeps; the trainer that logs is a Ray worker without any.
KEY = sys.stdin.readline().strip()
flags = {
    "logger.wandb.key": KEY,
    "logger.wandb.org": None,
    "logger.wandb.project": "project",
    "logger.wandb.group": None,
    "logger.wandb.run_name": "name",
    "reward.remote_url": f"http://me:{KEY}@host/score",
    "actor.adam.lr": 1e-6,
}
from argparse import Namespace  # noqa: E402

args = hierarchize(Namespace(**{name: hide(value, name) for name, value in flags.items()}))
print(args)
logger = WandbLogger(args)
logger.log_train(1, {"reward": 0.5})
logger.close()
