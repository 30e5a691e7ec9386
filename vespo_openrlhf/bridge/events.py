"""What passes between driver, engine actors and trainer actors; the driver needs no vLLM for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from vespo_openrlhf.scheduling.lag import Spans

if TYPE_CHECKING:
    from vllm import SamplingParams

    from vespo_openrlhf.bridge.wire import Rollout


@dataclass(frozen=True)
class SampleLimits:
    """What one sample may take; one that takes more is given up.

    Args:
        episode_timeout: seconds from its dispatch to its verdict.
        away_timeout: seconds away from the engine at a stretch, with its reward or its environment.
        away_reason: what that is counted as.
        max_turns: requests to the engine; None: any number.
    """

    episode_timeout: float
    away_timeout: float
    away_reason: str = "reward_timeout"
    max_turns: int | None = None


@dataclass(frozen=True)
class RolloutConfig:
    """What every response of a run has in common.

    Args:
        tokenizer: OpenRLHF's, for prompts and for the text that the reward reads.
        sampling: how responses are sampled.
        max_length: prompt and response together, in tokens.
        limits: of each sample.
        keep_kv: an engine that takes new weights keeps the KV cache of unfinished responses.
    """

    tokenizer: Any
    sampling: SamplingParams
    max_length: int
    limits: SampleLimits
    keep_kv: bool = False


@dataclass(frozen=True)
class Away:
    """Sample `sample` is with its environment: nothing of it is on the engine."""

    sample: int


@dataclass(frozen=True)
class Back:
    """Sample `sample` asks for its next turn, whose tokens are of `version` or younger."""

    sample: int
    version: int


@dataclass(frozen=True)
class Generated:
    """Sample `sample` has its last token; a reward is still to come."""

    sample: int
    spans: Spans


@dataclass(frozen=True)
class Scored:
    """Sample `sample` has its verdict.

    Attributes:
        reward: None if there is none.
        rollout: the sample for the trainer; None if it failed.
        reason: why there is no reward, as it is counted.
    """

    sample: int
    reward: float | None
    rollout: Rollout | None
    reason: str = ""


#: What a stream of a group tells.
Event: TypeAlias = Away | Back | Generated | Scored


def told_at_once(events: Iterable[Event]) -> list[Event]:
    """Without the samples that were away for a moment only: each event costs the driver time."""
    left: dict[int, Event] = {}  # by place
    away: dict[int, int] = {}  # places, by sample
    for place, event in enumerate(events):
        if isinstance(event, Away):
            away[event.sample] = place
        elif (before := away.pop(event.sample, None)) is not None and isinstance(event, Back):
            del left[before]
            continue
        left[place] = event
    return list(left.values())


def __getattr__(name: str) -> Any:
    """`Rollout` under the name that checkpoints of an older version know it by."""
    if name == "Rollout":
        from vespo_openrlhf.bridge.wire import Rollout

        return Rollout
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
