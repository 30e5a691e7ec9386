"""What a simulated cluster is made of, in numbers: speeds, lengths, faults."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Lengths:
    """Response lengths in tokens: lognormal and cut, or drawn from `measured` ones.

    Args:
        median, sigma: of the lognormal distribution.
        cut: the longest response.
        measured: lengths to draw from instead.

    Raises:
        ValueError: a value out of range.
    """

    median: float
    sigma: float
    cut: int
    measured: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.median <= 0 or self.sigma < 0 or self.cut < 1:
            raise ValueError(f"lengths need a median > 0, sigma >= 0 and a cut >= 1, got {self}")
        if self.measured and min(self.measured) < 1:
            raise ValueError("a measured length is below 1 token")

    def draw(self, source: random.Random) -> int:
        """One length."""
        if self.measured:
            return min(source.choice(self.measured), self.cut)
        length = round(source.lognormvariate(math.log(self.median), self.sigma))
        return min(self.cut, max(1, length))

    def mean(self) -> float:
        """The mean of 100,000 draws with a fixed seed."""
        source = random.Random(0)
        return sum(self.draw(source) for _ in range(100_000)) / 100_000


@dataclass(frozen=True)
class Faults:
    """What goes wrong.

    Args:
        engine_mtbf: mean seconds from an engine's start to its death; None for never.
        replace_seconds: from there to its replacement.
        lost_reward_share: of samples whose reward never returns.
        straggler_share, straggler_slowdown: share of engines that are this many times slower.
        filtered_share: of groups that dynamic filtering refuses.

    Raises:
        ValueError: a value out of range.
    """

    engine_mtbf: float | None = None
    replace_seconds: float = 60.0
    lost_reward_share: float = 0.0
    straggler_share: float = 0.0
    straggler_slowdown: float = 5.0
    filtered_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lost_reward_share", "straggler_share", "filtered_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} lies between 0 and 1, got {getattr(self, name)}")
        if self.engine_mtbf is not None and self.engine_mtbf <= 0:
            raise ValueError(f"engine_mtbf is above 0 seconds, got {self.engine_mtbf}")


@dataclass(frozen=True)
class ClusterConfig:
    """Engines and a trainer. Times in seconds.

    Args:
        engines: how many.
        max_sequences: decoded at once per engine; more wait in the engine's own queue.
        step_seconds, step_seconds_per_sequence: a decode step takes the first plus the second
            times the active sequences.
        lengths: of the responses.
        train_tokens_per_second: None for a trainer as fast as the engines at max_sequences.
        update_seconds: per optimizer update, on top of its tokens.
        publish_seconds: of a weight update; engines and trainer stand still.
        prefill_tokens_per_second: of an engine that computes the KV cache of its unfinished
            responses again after a weight update; None for at no cost. Prompts are not counted.
        turns: of each response, as long as one of `lengths` each.
        environment_seconds: mean of what comes before each of them, exponential; meanwhile the
            response is away from its engine.
        reward_seconds: from the last token to the verdict.
        ess_half_lag: mean token lag, in updates, at which the effective sample size is one half;
            None for a trainer that does not measure it.
        faults: what goes wrong.

    Raises:
        ValueError: a value out of range.
    """

    engines: int
    max_sequences: int
    step_seconds: float
    step_seconds_per_sequence: float
    lengths: Lengths
    train_tokens_per_second: float | None = None
    update_seconds: float = 0.0
    publish_seconds: float = 0.0
    prefill_tokens_per_second: float | None = None
    turns: int = 1
    environment_seconds: float = 0.0
    reward_seconds: float = 0.0
    ess_half_lag: float | None = None
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        if self.engines < 1 or self.max_sequences < 1:
            raise ValueError("a cluster needs an engine, and an engine a sequence")
        if self.turns < 1 or self.environment_seconds < 0:
            raise ValueError("a response has a turn, and its environment takes 0 seconds or more")
        if self.step_seconds <= 0 or self.step_seconds_per_sequence < 0:
            raise ValueError("a decode step takes more than 0 seconds")
        if self.train_tokens_per_second is not None and self.train_tokens_per_second <= 0:
            raise ValueError("a trainer trains more than 0 tokens per second")
        if self.prefill_tokens_per_second is not None and self.prefill_tokens_per_second <= 0:
            raise ValueError("an engine prefills more than 0 tokens per second")

    def step_time(self, active: int) -> float:
        """Seconds per decode step with that many active sequences."""
        return self.step_seconds + self.step_seconds_per_sequence * active

    def decode_tokens_per_second(self, active: int) -> float:
        """Of all engines, with that many active sequences each."""
        return self.engines * active / self.step_time(active)

    @property
    def trainer_speed(self) -> float:
        """Tokens per second of the trainer."""
        return self.train_tokens_per_second or self.decode_tokens_per_second(self.max_sequences)
