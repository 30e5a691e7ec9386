"""What a run records: every batch in `metrics.jsonl`, update in `updates.jsonl`, group in
`samples.jsonl`. JSON lines; a number that is not finite is null, which any reader takes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vespo_openrlhf.scheduling import Group, TrainStep

#: Where TensorBoard and wandb show them, beside OpenRLHF's `train/` and `eval/`.
_PREFIX = "update/"


class MetricsFile:
    """Appends what OpenRLHF logs to a JSON-lines file, and passes it on to another logger.

    It has the three methods of OpenRLHF's loggers, so it stands where one of them stood. A line
    is `{"step", "kind": "train" | "eval", "time": seconds since the epoch, ...metrics}`; a metric
    that is not finite is written as null, which any JSON reader takes, and one of a reward's that
    is called `step`, by which a resume goes, or as another of these three, as `reward/step`.

    Args:
        path: the file; its folder is made, and a run that resumes appends to it.
        inner: the logger that was there before (TensorBoard's), or None.
    """

    def __init__(self, path: str | Path, inner: Any = None) -> None:
        self._inner = inner
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # Line buffering: whoever reads along, or after a kill, sees whole lines.
        self._file = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115

    def log_train(self, global_step: int, logs_dict: dict[str, Any]) -> None:
        self._write(global_step, "train", logs_dict)
        if self._inner is not None:
            self._inner.log_train(global_step, logs_dict)

    def log_eval(self, global_step: int, logs_dict: dict[str, Any]) -> None:
        self._write(global_step, "eval", logs_dict)
        if self._inner is not None:
            self._inner.log_eval(global_step, logs_dict)

    def close(self) -> None:
        self._file.close()
        if self._inner is not None:
            self._inner.close()

    def _write(self, step: int, kind: str, metrics: dict[str, Any]) -> None:
        line = {"step": step, "kind": kind, "time": round(time.time(), 3)}
        own = set(line)
        for name, value in metrics.items():
            name = f"reward/{name}" if name in own else name
            if isinstance(value, (int, float)):
                line[name] = value if math.isfinite(value) else None
            elif isinstance(value, (list, str)):
                line[name] = value
        self._file.write(json.dumps(line) + "\n")


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


def stamps(step: TrainStep) -> Iterator[dict[str, Any]]:
    """One record per group that the step trains: what sampled it, and when it is used.

    `spans` has for each sample its (version, tokens) in order, `requests` the ids the engine knew
    it by, `update` the version of the policy that is trained with it; the times are seconds on a
    clock of the run's own.
    """
    batch = step.batch
    for j in range(step.first, step.last):
        for group in batch.mini_batches[j]:
            yield {"batch": batch.index, "update": batch.version + j, **_stamp(group)}


def _stamp(group: Group) -> dict[str, Any]:
    return {
        "epoch": group.prompt.epoch,
        "row": group.prompt.row,
        "prompt": group.prompt.name,
        "ticket": group.ticket,
        "engine": group.engine,
        "dispatched_version": group.dispatched_version,
        "completed_version": max(spans[-1][0] for spans in group.spans),
        "dispatched_at": group.dispatched_at,
        "generated_at": group.generated_at,
        "spans": group.spans,
        "rewards": group.rewards,
        "requests": [rollout and rollout.request_ids for rollout in group.payloads],
    }


def append_lines(path: Path, records: Iterator[dict[str, Any]]) -> None:
    """Add records to a file of JSON lines; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
