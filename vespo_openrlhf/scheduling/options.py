"""The scheduler's options, checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass, field

from .lag import LagOptions


@dataclass(frozen=True)
class RolloutOptions:
    """How rollouts are streamed. Flags: `--rollout.{field}`.

    Args:
        in_flight_per_engine: sequences kept in flight on each engine, at most. Fewer make each
            faster, so that long responses fit into a tighter lag.
        reward_timeout: seconds after which a sample without a verdict counts as unscored.
        engine_timeout: seconds without a new token, or an answer, after which an engine that has
            work counts as dead.

    Raises:
        ValueError: the message names the option.
    """

    in_flight_per_engine: int = 256
    reward_timeout: float = 600.0
    engine_timeout: float = 300.0

    def __post_init__(self) -> None:
        for name in ("reward_timeout", "engine_timeout"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is above 0 seconds, got {getattr(self, name)}")


@dataclass(frozen=True)
class SchedulerConfig:
    """A run, as far as the scheduler is concerned.

    The synchronous loop is the same scheduler with the least lag.max there is and no partial
    rollout: then a batch is begun only when the engines have the weights of the one before.

    Args:
        prompts_per_batch: groups in a rollout batch.
        samples_per_prompt: n, responses per group.
        updates_per_batch: N, mini-batches and so optimizer updates per rollout batch.
        in_flight_per_engine: sequences kept in flight on each engine, at most. Fewer make each
            faster, so that long responses fit into a tighter lag.
        lag: the bound and what goes with it.
        partial_rollout: engines take new weights in mid-response. Otherwise they finish what they
            have first, and every response is of one version.
        reward_timeout: seconds after which a sample without a verdict counts as unscored; None
            where the reward side keeps time itself.

    Raises:
        ValueError: values that do not fit each other; the message says which and why. Whether the
            policy can keep to them is for `policies.make_policy` to say.
    """

    prompts_per_batch: int
    samples_per_prompt: int
    updates_per_batch: int
    in_flight_per_engine: int
    lag: LagOptions = field(default_factory=LagOptions)
    partial_rollout: bool = False
    reward_timeout: float | None = None

    def __post_init__(self) -> None:
        sizes = ("prompts_per_batch", "samples_per_prompt", "updates_per_batch")
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.prompts_per_batch % self.updates_per_batch:
            raise ValueError(
                f"a mini-batch holds whole groups: {self.prompts_per_batch} prompts per rollout "
                f"batch do not split into {self.updates_per_batch} updates"
            )
        if self.in_flight_per_engine < self.samples_per_prompt:
            raise ValueError(
                f"in_flight_per_engine {self.in_flight_per_engine} is less than one group of "
                f"{self.samples_per_prompt} samples, which stays on one engine"
            )
        if self.reward_timeout is not None and self.reward_timeout <= 0:
            raise ValueError(f"reward_timeout is above 0 seconds, got {self.reward_timeout}")

    @property
    def groups_per_update(self) -> int:
        """Groups in a mini-batch."""
        return self.prompts_per_batch // self.updates_per_batch
