"""DeepSpeed's part of a checkpoint, which every rank of actor and critic saves and loads.

OpenRLHF deletes old checkpoints before it saves a new one, worst evaluation first, and loads what
DeepSpeed's `latest` names, which rank 0 writes while others still save. So saving is all that is
done here; `Checkpoints` does the rest, once all ranks have saved and before any loads.
"""

from __future__ import annotations

import functools
import gc
from typing import Any

from vespo_openrlhf.bridge.rank import model_folder


def install(strategy: Any) -> None:
    """Make a strategy save what it is told to, load the checkpoint that the driver chose, and write
    model folders with adapters merged.

    Args:
        strategy: OpenRLHF's, of this process.
    """
    strategy.save_ckpt = save
    strategy.load_ckpt = functools.partial(_load_chosen, strategy.args)
    strategy.save_model = functools.partial(
        model_folder.save, strategy.save_model, strategy.args.ds
    )


def save(
    engine: Any,
    folder: str,
    tag: str,
    max_num: int = 0,
    max_mem: float = 0.0,
    client_state: dict[str, Any] | None = None,
    **metric: Any,
) -> None:
    """In the place of OpenRLHF's `save_ckpt`, with its arguments; deletes nothing."""
    engine.save_checkpoint(folder, tag=tag, client_state=client_state or {}, save_latest=False)
    gc.collect()


def load(engine: Any, folder: str, tag: str | None) -> tuple[str, dict[str, Any]]:
    """Load DeepSpeed's state, with the learning rates that the engine has now, not the saved ones.

    Args:
        tag: of the checkpoint; None takes the latest universal one.

    Returns:
        The checkpoint's path, and what the trainer saved with it.

    Raises:
        RuntimeError: DeepSpeed finds none.
    """
    schedule = engine.lr_scheduler
    rates = list(schedule.base_lrs) if schedule is not None else []
    path, states = engine.load_checkpoint(folder, tag)
    if path is None:
        raise RuntimeError(f"DeepSpeed finds no checkpoint {tag or 'latest_universal'} in {folder}")
    if rates:
        _restart_schedule(schedule, rates)
    return path, states


def _restart_schedule(schedule: Any, rates: list[float]) -> None:
    """Put base rates into a schedule and its optimizer, at the schedule's place."""
    schedule.base_lrs = rates
    groups = schedule.optimizer.param_groups
    for group, rate, factor in zip(groups, rates, schedule.lr_lambdas, strict=True):
        group["initial_lr"] = rate
        group["lr"] = rate * factor(schedule.last_epoch)
    schedule._last_lr = [group["lr"] for group in groups]


def _load_chosen(args: Any, engine: Any, folder: str) -> tuple[str | None, dict[str, Any]]:
    if args.ckpt.resume_tag is None:
        return None, {}
    return load(engine, folder, None if args.ds.use_universal_ckpt else args.ckpt.resume_tag)
