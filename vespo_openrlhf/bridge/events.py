"""What passes between driver, engine actors and trainer actors; the driver needs no vLLM for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vespo_openrlhf.scheduling.lag import Spans

if TYPE_CHECKING:
    from vllm import SamplingParams

    from vespo_openrlhf.bridge.wire import Rollout


@dataclass(frozen=True)
class RolloutConfig:
    """What every response of a run has in common.

    Args:
        tokenizer: OpenRLHF's, for prompts and for the text that the reward reads.
        sampling: how responses are sampled.
        max_length: prompt and response together, in tokens.
        reward_timeout: seconds a sample may spend away from the engine, with its reward or its
            environment, at a stretch.
        keep_kv: an engine that takes new weights keeps the KV cache of unfinished responses.
    """

    tokenizer: Any
    sampling: SamplingParams
    max_length: int
    reward_timeout: float
    keep_kv: bool = False


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
    """

    sample: int
    reward: float | None
    rollout: Rollout | None


def __getattr__(name: str) -> Any:
    """`Rollout` under the name that checkpoints of an older version know it by."""
    if name == "Rollout":
        from vespo_openrlhf.bridge.wire import Rollout

        return Rollout
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
