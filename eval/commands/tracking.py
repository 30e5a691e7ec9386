"""Results in Weights & Biases and TensorBoard, for `run` and `watch`.

Neither is imported before there is something to log, nor at all without its option.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vespo_openrlhf.eval.errors import EvaluationError

# What of a run's settings may be shown; options of engines can hold keys.
_SHOWN = ("model", "revision", "benchmarks", "versions")
_HIDDEN = "engine_options"


def add_tracking_options(parser: argparse.ArgumentParser) -> None:
    """``--wandb`` and ``--tensorboard``."""
    group = parser.add_argument_group("logging, beside the files in OUT")
    group.add_argument(
        "--wandb",
        metavar="PROJECT",
        help="log the results to Weights & Biases, as the run named like OUT; WANDB_MODE=offline "
        "keeps them in OUT/wandb until `wandb sync`",
    )
    group.add_argument("--tensorboard", type=Path, metavar="DIR", help="log the results there")


def check_tracking(arguments: argparse.Namespace) -> None:
    """Raise what would be in the way of logging, before anything is generated.

    Raises:
        ValueError: a package is missing.
    """
    for option, package in ((arguments.wandb, "wandb"), (arguments.tensorboard, "tensorboard")):
        if option is not None and importlib.util.find_spec(package) is None:
            raise ValueError(f"--{package} needs its package: pip install {package}")


def track(
    arguments: argparse.Namespace,
    manifest: Mapping[str, Any],
    summary: Mapping[str, Any],
    step: int = 0,
) -> None:
    """Log a summary, as `arguments` ask for it.

    Results of one OUT are one run of Weights & Biases, whoever logs them and in whatever order.

    Raises:
        EvaluationError: it cannot be logged; the results are in OUT all the same.
    """
    numbers = numbers_of(summary)
    try:
        if arguments.tensorboard is not None:
            from torch.utils.tensorboard import SummaryWriter

            with SummaryWriter(str(arguments.tensorboard)) as writer:
                for name, value in numbers.items():
                    writer.add_scalar(name, value, step)
        if arguments.wandb is not None:
            import wandb

            out = arguments.out.resolve()
            settings = {k: v for k, v in manifest["settings"].items() if k != _HIDDEN}
            with wandb.init(
                project=arguments.wandb,
                name=out.name,
                id=hashlib.sha256(str(out).encode()).hexdigest()[:16],
                resume="allow",
                dir=str(out),
                config={**{name: manifest[name] for name in _SHOWN}, "settings": settings},
                allow_val_change=True,
            ) as run:
                # Checkpoints need not come in the order of their steps.
                run.define_metric("eval/*", step_metric="step")
                run.log({"step": step, **numbers})
    except Exception as error:  # whatever a service and its client can come to
        raise EvaluationError(
            f"the results are in {arguments.out}, but could not be logged: {error}. The same "
            "command logs them again and generates nothing"
        ) from error


def numbers_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """What is logged: per benchmark accuracy with its interval, pass@k and maj@k, rates, length,
    and of an agent the means of an episode."""
    found: dict[str, float | None] = {"eval/average": summary["average"]}
    for name, numbers in summary["benchmarks"].items():
        # Curves of a few problems and of all must not run into one another.
        prefix = f"eval/{name}" + (f"-first-{numbers['problems']}" if "of" in numbers else "")
        k = str(numbers["repeats"])
        low, high = numbers["interval"]
        found |= {
            f"{prefix}/avg@{k}": numbers["avg@k"],
            f"{prefix}/avg@{k}_low": low,
            f"{prefix}/avg@{k}_high": high,
            f"{prefix}/pass@{k}": numbers["pass@k"][k],
            f"{prefix}/maj@{k}": numbers["maj@k"][k],
            f"{prefix}/truncation_rate": numbers["truncation_rate"],
            f"{prefix}/unverified_rate": numbers["unverified_rate"],
            f"{prefix}/error_rate": numbers.get("error_rate"),
            f"{prefix}/length": numbers["length"]["mean"],
        }
        if agent := numbers.get("agent"):
            means = {"turns": agent["turns"], "reward": agent["reward"], **agent["logs"]}
            found |= {f"{prefix}/agent/{what}": mean for what, mean in means.items()}
    return {name: value for name, value in found.items() if value is not None}
