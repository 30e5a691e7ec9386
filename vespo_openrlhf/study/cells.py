"""What a run of the study is: one cell of the grid, and the recipe that all of them share.

Standard library only: the command line lists and checks a grid without waiting for torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SAMPLER_DTYPES = ("float32", "bfloat16")
#: Of the task `addition`.
BASE_RATE = 3e-4

# Raise it with any change to what the same cell and recipe compute, so that old runs are redone.
VERSION = 5


@dataclass(frozen=True)
class Recipe:
    """What every run of a study has in common.

    Attributes:
        updates: optimizer updates of a run.
        groups_per_update, group_size: prompts in a mini-batch, responses to each.
        evaluate_every: updates between two evaluations.
        evaluation_problems: held-out problems, one response each at temperature 1.
        last_evaluations: evaluations whose mean is the final accuracy.
        gradient_clip: largest gradient norm.
        task: what is trained on, see `tasks`.
        width, layers, heads: of the policy.
        slip: chance that a digit of a demonstration is a random one.
        warm_steps, warm_batch, warm_lr: the supervised warm start.

    Raises:
        ValueError: the numbers do not fit together.
    """

    task: str = "addition"
    updates: int = 256
    groups_per_update: int = 8
    group_size: int = 8
    evaluate_every: int = 16
    evaluation_problems: int = 256
    last_evaluations: int = 4
    gradient_clip: float = 1.0
    width: int = 64
    layers: int = 2
    heads: int = 2
    slip: float = 0.12
    warm_steps: int = 800
    warm_batch: int = 64
    warm_lr: float = 3e-3

    def __post_init__(self) -> None:
        if self.updates < 1 or self.updates % self.evaluate_every:
            raise ValueError(
                f"updates must be a positive multiple of the {self.evaluate_every} updates "
                f"between two evaluations, got {self.updates}"
            )
        if not 1 <= self.last_evaluations <= self.updates // self.evaluate_every:
            raise ValueError(
                f"{self.updates} updates have {self.updates // self.evaluate_every} evaluations "
                f"after the first, fewer than the last {self.last_evaluations} that are averaged"
            )


@dataclass(frozen=True)
class LossSetting:
    """A policy loss with its options, under the name a reader knows it by.

    Attributes:
        label: what figures and tables call it; one setting, one label.
        name: of `vespo_openrlhf.losses.get_policy_loss`.
        options: those that differ from the loss's defaults.
    """

    label: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        loss: which loss, how set.
        updates_per_batch: N, mini-batches made of one rollout batch.
        lag: updates between the weights a rollout batch was sampled with and those its first
            mini-batch finds; the last mini-batch is N - 1 updates further away.
        learning_rate: constant, AdamW.
        seed: of the warm start, the problems and every draw: one seed, one pair.
        mu_noise: standard deviation of Gaussian noise on each *reported* log mu, in nats: E W is
            above 1.
        engine_noise: the same on each logit of the sampler, which draws from what it reports, as
            an engine does: E W is 1.
        sampler_dtype: of the weights the sampler computes with.

    Raises:
        ValueError: a value out of range.
    """

    loss: LossSetting
    updates_per_batch: int
    seed: int
    lag: int = 0
    learning_rate: float = BASE_RATE
    mu_noise: float = 0.0
    engine_noise: float = 0.0
    sampler_dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.updates_per_batch < 1 or self.lag < 0:
            raise ValueError(
                "N must be at least 1 and the lag at least 0 updates, got "
                f"{self.updates_per_batch} and {self.lag}"
            )
        if self.learning_rate <= 0 or min(self.mu_noise, self.engine_noise) < 0:
            raise ValueError(
                "the learning rate must be positive and the noise not negative, got "
                f"{self.learning_rate}, {self.mu_noise} and {self.engine_noise}"
            )
        if self.sampler_dtype not in SAMPLER_DTYPES:
            raise ValueError(
                f"the sampler's dtype must be one of {', '.join(SAMPLER_DTYPES)}, "
                f"got {self.sampler_dtype!r}"
            )

    def key(self, recipe: Recipe) -> str:
        """The name of the run's file: readable, and different for whatever computes differently.

        The label is left out: two presets that name one setting differently share its runs.
        """
        facts = asdict(self) | {"recipe": asdict(recipe), "version": VERSION}
        facts["loss"] = [self.loss.name, dict(self.loss.options)]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:10]
        return f"{self.loss.name}-N{self.updates_per_batch}-lag{self.lag}-s{self.seed}-{digest}"

    def condition(self) -> tuple[Any, ...]:
        """Everything but the loss and the seed: runs that share it may be compared."""
        return (
            self.updates_per_batch,
            self.lag,
            self.learning_rate,
            self.mu_noise,
            self.engine_noise,
            self.sampler_dtype,
        )
