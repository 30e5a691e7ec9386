"""OpenRLHF's trainer under our scheduler, on recorded rollouts.

What is trained, logged, guarded and saved is `ScheduledTrainer`'s. Rollout actors are there for
evaluations alone, and have the weights of those.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openrlhf.trainer import ppo_trainer

from vespo_openrlhf import config
from vespo_openrlhf.bridge.driver import PromptRow
from vespo_openrlhf.bridge.flags import flatten
from vespo_openrlhf.bridge.offline import behaviour
from vespo_openrlhf.bridge.offline.engine import ReplayEngine
from vespo_openrlhf.bridge.run.recordings import limits, open_recording, rewarding
from vespo_openrlhf.bridge.samples import mini_batches
from vespo_openrlhf.bridge.trainer import ScheduledTrainer
from vespo_openrlhf.recorded.options import OfflineOptions
from vespo_openrlhf.replaced import replaced
from vespo_openrlhf.scheduling import Batch, BatchReport, Engine, PromptLedger
from vespo_openrlhf.scheduling.metrics import LagStatistics

logger = logging.getLogger(__name__)


class OfflineTrainer(ScheduledTrainer):
    """Trains what `--offline.data` holds."""

    def _read_data(self, flags: Mapping[str, Any]) -> Any:
        self._offline = config.read(OfflineOptions, flags)
        self._limits_of_samples = limits(flags)
        self._recording = open_recording(flags)
        logger.info("%s", self._recording.account())
        self._problems = None
        if self.args.eval.dataset:
            # OpenRLHF reads problems together with prompts, of which there are none here.
            with replaced(self.args.data, prompt_dataset=self.args.eval.dataset, prompt_probs=None):
                _, self._problems, _ = ppo_trainer.prepare_datasets(self.strategy, self.tokenizer)
        return self._problems

    def _ledger(self) -> PromptLedger:
        # With what the shards hold, so that a resume on others of the same names is noticed.
        held = self._recording.digest[:8]
        names = [f"{name}@{held}" for name in self._recording.names[: self.args.data.max_samples]]
        seed = self.args.train.seed if self._offline.order == "shuffled" else None
        return PromptLedger(names, epochs=self._offline.epochs, shuffle_seed=seed)

    def _rows(self) -> list[PromptRow]:
        """Rollout actors are tried out with the problems."""
        if self._problems is None:
            return []
        data = self._problems.dataset
        return [PromptRow(*row) for row in zip(data.prompts, data.labels, data.images, strict=True)]

    def _engines(self) -> Mapping[str, Engine]:
        recording = ReplayEngine(
            *(self._driver, self._recording, self.args.data.max_len),
            rewarding(flatten(self.args)),
        )
        return {recording.name: recording}

    def _why_no_restart(self) -> str:
        return f"nothing is evaluated without it. {self._state.advice()}"

    def _shares_gpus(self) -> bool:
        return True  # an actor that fails ends the run: the scheduler does not know it

    async def _prepare(self) -> None:
        """What the samples are taken to be sampled by."""
        if self._offline.behaviour != "recorded":
            self._recording = await asyncio.to_thread(
                behaviour.assumed,
                *(self._recording, self._offline.behaviour, self.experience_maker),
                *(Path(self.args.run.dir), self._global_step, self._limits_of_samples),
                self.args.rollout.n_samples_per_prompt,
            )

    def _make_experience(self, batch: Batch) -> None:
        self._batch = batch
        super()._make_experience(batch)

    def _on_batch(self, report: BatchReport) -> None:
        """With the lag of the versions that were recorded; the scheduler's is that of reading."""
        lag = mini_batches.recorded_lag(self._batch) or LagStatistics({}, {}, {}, 0)
        super()._on_batch(dataclasses.replace(report, lag=lag))

    async def _publish(self, version: int, names: Sequence[str]) -> None:
        if self._evaluations.due(self._global_step):
            await self._give_weights(version, [engine.name for engine in self._driver.living])
        for name in names:
            self._driver.scheduler.on_engine_updated(name, version)
        self._driver.wake()
