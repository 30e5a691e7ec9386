"""OpenRLHF's trainers, synchronous and asynchronous, with their metrics written to the run folder.

These classes run in Ray workers: OpenRLHF's modules there are untouched until ours are imported,
so what a trainer looks up by name is put in place where it looks, not in the driver.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray
from openrlhf.trainer import ppo_trainer, ppo_trainer_async

from vespo_openrlhf.bridge.experience import ShortExperienceMaker, skips_old_log_probs
from vespo_openrlhf.bridge.metrics_file import MetricsFile
from vespo_openrlhf.bridge.seams import plain_class
from vespo_openrlhf.bridge.settings import flatten

METRICS_FILE = "metrics.jsonl"


class _Ours:
    """Mixed into a trainer of OpenRLHF's: our experience maker, and metrics in the run folder."""

    args: Any
    tensorboard_logger: Any

    def __init__(self, pretrain: Any, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if skips_old_log_probs(flatten(strategy.args)):
            ppo_trainer.RemoteExperienceMaker = ShortExperienceMaker
        super().__init__(pretrain, strategy, *args, **kwargs)  # type: ignore[call-arg]
        run_dir = self.args.run.dir
        if run_dir is not None:
            self.tensorboard_logger = MetricsFile(
                Path(run_dir) / METRICS_FILE, inner=self.tensorboard_logger
            )


def whole_distribution(generate_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Sampling options under which the engine's log-probs are those of its full distribution.

    OpenRLHF asks vLLM for at least one token, and vLLM then takes the end of sequence out of the
    first token's distribution: log W would be off by log(1 - p(end)) on every sample. A response
    that ends at once still holds its end token, so nothing downstream meets an empty one.
    """
    return {"min_new_tokens": 0, **generate_kwargs}


class SyncTrainer(_Ours, plain_class(ppo_trainer.PPOTrainer)):  # type: ignore[misc]
    """OpenRLHF's `PPOTrainer`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **whole_distribution(kwargs))


class TrainingActor(_Ours, plain_class(ppo_trainer_async.TrainingActor)):  # type: ignore[misc]
    """OpenRLHF's training half of the asynchronous pair."""


class AsyncTrainer(plain_class(ppo_trainer_async.PPOTrainerAsync)):  # type: ignore[misc]
    """OpenRLHF's `PPOTrainerAsync` around our `TrainingActor`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        ppo_trainer_async.TrainingActor = ray.remote(TrainingActor)
        super().__init__(*args, **whole_distribution(kwargs))
