"""What a run tells while it trains: its loggers, its records, and the bar on the screen."""

from __future__ import annotations

import functools
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from vespo_openrlhf.bridge.run import records
from vespo_openrlhf.bridge.run.folder import (
    METRICS_FILE,
    PROMPTS_FILE,
    UPDATES_FILE,
    RunFolder,
)
from vespo_openrlhf.bridge.run.records import MetricsFile, UpdateLog
from vespo_openrlhf.bridge.samples.recorder import Recorder
from vespo_openrlhf.files import write_text
from vespo_openrlhf.recorded.reading import STAMPS_FILE
from vespo_openrlhf.scheduling import BatchReport, TrainStep

logger = logging.getLogger(__name__)


class RunLog:
    """Gathers what a rollout batch's steps report, and keeps the records of the run.

    Args:
        run: where the records lie; None for none.
        tensorboard, wandb: OpenRLHF's loggers, where the run has them.
        done, total: rollout batches.
        recorder: keeps the samples, where that is asked for.
    """

    def __init__(
        self,
        run: RunFolder | None,
        tensorboard: Any,
        wandb: Any,
        done: int,
        total: int,
        recorder: Recorder | None = None,
    ) -> None:
        self._recorder = recorder
        self._folder = run.path if run else None
        updates = run.path / UPDATES_FILE if run else None
        self._updates = UpdateLog(updates, tensorboard, wandb)
        #: In the place of `tensorboard`, to which it passes everything on.
        self.tensorboard = MetricsFile(run.path / METRICS_FILE, tensorboard) if run else tensorboard
        self._wandb = wandb
        self._batch = BatchMetrics()
        self._bar = tqdm(total=total, initial=done, desc="Rollout batches")
        self._started = time.monotonic()

    def begin_batch(self, metrics: Mapping[str, Any], seconds: float) -> None:
        """A rollout batch is ready to be trained: its metrics, and the seconds that took."""
        self._batch = BatchMetrics()
        self._batch.once(metrics)
        self._batch.add({"timing/make_experience": seconds})

    def add_step(
        self,
        number: int,
        step: TrainStep,
        metrics: Mapping[str, float],
        updates: Sequence[Mapping[str, float]],
        seconds: float,
    ) -> None:
        """A step of batch `number`, counted from 1, was trained: its metrics and its updates'."""
        self._batch.add({"timing/ppo_train": seconds})
        self._batch.mean(metrics, step.last - step.first)
        if self._folder:
            records.append_lines(self._folder / STAMPS_FILE, records.stamps(step))
        self._updates.log(step.batch.version + step.first, number, step.first, updates)

    def end_batch(self, report: BatchReport, published: Mapping[str, float]) -> dict[str, Any]:
        """The metrics of the batch that has been trained, for all loggers."""
        if self._recorder:
            self._recorder.end_batch()
        now = time.monotonic()
        metrics = self._batch.values() | report.scalars() | dict(published)
        metrics["timing/step_total"] = now - self._started
        self._started = now
        self._bar.update()
        self._bar.set_postfix(
            reward=round(metrics["rollout/reward_mean"], 3),
            lag=round(report.lag.mean, 1),
            in_flight=report.in_flight,
        )
        return metrics

    def settle(self) -> None:
        """Wait for what is being written of the batches so far; a checkpoint comes after it."""
        if self._recorder:
            self._recorder.settle()

    def evaluated(self, step: int, metrics: dict[str, float]) -> None:
        """An evaluation is done."""
        for log in self._loggers():
            log.log_eval(step, metrics)
        logger.info("Evaluation at global step %d: %s", step, metrics)

    def close(self, account: list[dict[str, Any]]) -> list[Exception]:
        """End every record, whatever befell another.

        Args:
            account: what became of every prompt, by epoch; see `PromptLedger.account`.

        Returns:
            What went wrong, such as a full disk.
        """
        self._bar.close()
        ends: list[Callable[[], object]] = [functools.partial(self._write_prompts, account)]
        ends += [log.close for log in self._loggers()]
        if self._recorder:
            ends.append(self._recorder.close)
        errors = []
        for end in ends:
            try:
                end()
            except Exception as error:
                errors.append(error)
        return errors

    def _loggers(self) -> list[Any]:
        return [log for log in (self._wandb, self.tensorboard) if log]

    def _write_prompts(self, account: list[dict[str, Any]]) -> None:
        """By name where they were not trained."""
        for epoch, outcomes in enumerate(account):
            logger.info(
                "epoch %d: %d prompts trained, %d filtered, %d abandoned",
                *(epoch, outcomes["trained"], len(outcomes["filtered"])),
                len(outcomes["abandoned"]),
            )
        if self._folder:
            write_text(self._folder / PROMPTS_FILE, json.dumps(account, indent=2) + "\n")


class BatchMetrics:
    """Adds up what the steps of a batch report; `values` is one flat dictionary."""

    def __init__(self) -> None:
        self._once: dict[str, Any] = {}
        self._sums: dict[str, float] = {}
        self._weighted: dict[str, tuple[float, float]] = {}
        self._largest: dict[str, float] = {}

    def once(self, values: Mapping[str, Any]) -> None:
        """Of the whole batch."""
        self._once.update(values)

    def add(self, values: Mapping[str, float]) -> None:
        """To be summed: seconds."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def mean(self, values: Mapping[str, float], updates: int) -> None:
        """Of a step of so many updates, by which the mean is weighted; a `_max` is a maximum and
        a `num_` a sum. NaN, the mean of no samples, does not count."""
        for name, value in values.items():
            last = name.rpartition("/")[2]
            if math.isnan(value):
                continue
            if last.startswith("num_"):
                self.add({name: value})
            elif last.endswith("_max"):
                self._largest[name] = max(value, self._largest.get(name, value))
            else:
                total, weight = self._weighted.get(name, (0.0, 0.0))
                self._weighted[name] = (total + value * updates, weight + updates)

    def values(self) -> dict[str, Any]:
        """All of them."""
        means = {name: total / weight for name, (total, weight) in self._weighted.items()}
        return self._once | means | self._largest | self._sums
