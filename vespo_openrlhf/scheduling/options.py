"""The scheduler's options, checked before anything starts."""

from __future__ import annotations

from dataclasses import dataclass

from ..options import Options, option
from .lag import LagOptions


@dataclass(frozen=True)
class RolloutOptions(Options):
    """How rollouts are streamed."""

    in_flight_per_engine: int = option(
        256,
        "sequences kept on each engine, at most, where an agent's that are with their environment "
        "do not count; fewer make each faster, so that long responses fit into a tighter --lag.max",
    )
    reward_timeout: float = option(
        600.0,
        "seconds after which a sample without a verdict is given up: it is left out of its group; "
        "of an agent, whose environment gives the verdict, see --agent.tool_timeout",
        above=0,
    )
    episode_timeout: float = option(
        3600.0,
        "seconds from a sample's dispatch to its verdict, with all of its turns, after which it is "
        "given up: its requests leave the engine, and its group goes on without it",
        above=0,
    )
    engine_timeout: float = option(
        300.0,
        "seconds without a new token, or without an answer, after which an engine that has work is "
        "taken for hung: it is killed, started again with the present weights, and its prompts are "
        "sent again",
        above=0,
    )


@dataclass(frozen=True)
class SchedulerConfig(Options):
    """A run, as far as the scheduler is concerned.

    The synchronous loop is the same scheduler with the least lag.max there is and no partial
    rollout: then a batch is begun only when the engines have the weights of the one before.

    Raises:
        ValueError: values that do not fit each other; the message says which and why. Whether the
            policy can keep to them is for `policies.make_policy` to say.
    """

    prompts_per_batch: int = option(help="groups in a rollout batch", at_least=1)
    samples_per_prompt: int = option(help="n, responses per group", at_least=1)
    updates_per_batch: int = option(
        help="N, mini-batches and so optimizer updates per rollout batch", at_least=1
    )
    in_flight_per_engine: int = option(help="see `RolloutOptions`")
    lag: LagOptions = option(factory=LagOptions, help="the bound and what goes with it")
    partial_rollout: bool = option(
        False,
        "engines take new weights in mid-response. Otherwise they finish what they have first, and "
        "every response is of one version",
    )
    reward_timeout: float | None = option(
        None, "see `RolloutOptions`; None where the reward side keeps time itself", above=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
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

    @property
    def groups_per_update(self) -> int:
        """Groups in a mini-batch."""
        return self.prompts_per_batch // self.updates_per_batch
