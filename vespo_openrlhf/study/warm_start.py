"""The warm start of a seed: the policy every run of that seed begins with, and its problems."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vespo_openrlhf.files import written_whole
from vespo_openrlhf.study.cells import VERSION, Recipe
from vespo_openrlhf.study.tasks import Task, get_task, response_mask


@dataclass(frozen=True)
class Start:
    """Where the runs of one seed begin.

    Attributes:
        weights: state of the task's policy.
        training: problems in the order in which they are sampled, each once.
        held_out: problems it is evaluated on; none of them is in `training`.
    """

    weights: Mapping[str, Tensor]
    training: list[Any]
    held_out: list[Any]


def warm_start(seed: int, recipe: Recipe, cache: Path) -> Start:
    """The warm start of `seed`, trained now or read from `cache`.

    Args:
        seed: of problems, slips and initial weights.
        recipe: its model, warm start and sizes are used.
        cache: folder of weights; made if it is not there.
    """
    task = get_task(recipe.task)
    held_out, training, shown = task.split(
        seed,
        [
            recipe.evaluation_problems,
            recipe.updates * recipe.groups_per_update,
            recipe.warm_steps * recipe.warm_batch,
        ],
    )
    facts = repr((seed, sorted(asdict(recipe).items()), VERSION))
    path = cache / f"seed{seed}-{sha256(facts.encode()).hexdigest()[:10]}.pt"
    if path.exists():
        return Start(torch.load(path, weights_only=True), training, held_out)
    model = _train(seed, recipe, task, task.demonstrations(shown, recipe.slip, seed))
    with written_whole(path) as draft:  # another process may make the same at the same time
        torch.save(model.state_dict(), draft)
    return Start(model.state_dict(), training, held_out)


def _train(seed: int, recipe: Recipe, task: Task, shown_NT: Tensor) -> torch.nn.Module:
    """One pass over the demonstrations; the learning rate rises for a tenth of it, then falls."""
    torch.manual_seed(seed)
    model = task.policy(recipe.width, recipe.layers, recipe.heads)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.warm_lr, betas=(0.9, 0.95), weight_decay=0.01, fused=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=recipe.warm_lr,
        total_steps=recipe.warm_steps + 1,
        pct_start=0.1,
        cycle_momentum=False,
    )
    for ids_BT in shown_NT.split(recipe.warm_batch):
        mask = response_mask(ids_BT[:, task.prompt_tokens :], task.end)
        loss = -(model.log_probs(ids_BT) * mask).sum() / mask.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_clip)
        optimizer.step()
        schedule.step()
    trained: torch.nn.Module = model
    return trained
