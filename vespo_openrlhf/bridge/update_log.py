"""`updates.jsonl`, TensorBoard and wandb: the metrics of every optimizer update."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vespo_openrlhf.bridge.records import append_lines

#: Where TensorBoard and wandb show them, beside OpenRLHF's `train/` and `eval/`.
_PREFIX = "update/"


class UpdateLog:
    """Writes what `update_metrics` found, update by update.

    A line is `{"update", "step", "mini_batch", ...metrics}`: `update` as in `samples.jsonl`, how
    many the policy had made before; `step` as in `metrics.jsonl`, the rollout batch, from 1;
    `mini_batch` its place in that batch, from 0. A metric that is not finite is null.

    Args:
        path: of the file, or None for none.
        tensorboard, wandb: OpenRLHF's loggers, where the run has them. Their own methods log
            everything under `train/` by rollout batch, so what they wrap is used here.
    """

    def __init__(self, path: Path | None, tensorboard: Any = None, wandb: Any = None) -> None:
        self._path = path
        self._writer = tensorboard.writer if tensorboard else None
        self._wandb = wandb.handle if wandb else None
        if self._wandb is not None:
            self._wandb.define_metric(f"{_PREFIX}number")
            self._wandb.define_metric(f"{_PREFIX}*", step_metric=f"{_PREFIX}number", step_sync=True)

    def log(
        self, first: int, step: int, mini_batch: int, updates: Sequence[Mapping[str, float]]
    ) -> None:
        """Add updates that follow one another.

        Args:
            first, mini_batch: of the first of them.
            step: the rollout batch of all of them.
            updates: their metrics; none where the actor was not trained.
        """
        lines = []
        for index, metrics in enumerate(updates):
            update = first + index
            finite = {name: value for name, value in metrics.items() if math.isfinite(value)}
            header = {"update": update, "step": step, "mini_batch": mini_batch + index}
            lines.append(header | dict.fromkeys(metrics) | finite)
            if self._writer is not None:
                for name, value in finite.items():
                    self._writer.add_scalar(f"{_PREFIX}{name}", value, update)
            if self._wandb is not None:
                shown = {f"{_PREFIX}{name}": value for name, value in finite.items()}
                self._wandb.log(shown | {f"{_PREFIX}number": update})
        if self._path is not None:
            append_lines(self._path, iter(lines))
