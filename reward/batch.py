"""OpenRLHF's ``reward_func(queries, prompts, labels)`` around a function for one sample."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from vespo_openrlhf.reward import turns
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.reward.query import split_query
from vespo_openrlhf.reward.shaping import shape, shaping_terms

logger = logging.getLogger(__name__)

RewardFunc = Callable[[Sequence[str], Sequence[str], Sequence[Any]], dict[str, Any]]
_THREADS = 8


@dataclass(frozen=True)
class Score:
    """What one sample earns: its score, unshaped, and numbers to log."""

    value: float
    logs: dict[str, float] = field(default_factory=dict)


ScoreSample = Callable[[str, Any, str], Score]


def batched(score: ScoreSample, options: RewardOptions) -> RewardFunc:
    """The reward function of a scorer.

    It returns ``rewards`` (shaped) and ``scores`` (not shaped) as float tensors of shape
    [samples], and ``extra_logs`` of plain numbers, means over the samples of the call. It never
    raises: a sample whose scorer does scores 0, is logged as an error and counted as ``error``.
    """

    def one(query: str, prompt: str, label: Any) -> tuple[float, float, dict[str, float]]:
        try:
            with turns.turn:
                response = split_query(query, prompt)
            result = score(response, label, prompt)
            if not math.isfinite(result.value):
                raise ValueError(f"the score is {result.value}")
            with turns.turn:
                terms = shaping_terms(response, options)
            logs = {**result.logs, "length": float(len(response)), "error": 0.0}
            logs.update({f"shaping_{name}": value for name, value in terms.items()})
            return shape(result.value, terms, options), result.value, logs
        except Exception:
            logger.exception("a sample could not be scored; it scores 0")
            return 0.0, 0.0, {"error": 1.0}

    def reward_func(
        queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]
    ) -> dict[str, Any]:
        import torch

        if len(queries) == 1:
            results = [one(queries[0], prompts[0], labels[0])]
        else:
            with ThreadPoolExecutor(_THREADS) as threads:
                results = list(threads.map(one, queries, prompts, labels))
        names = {name for _, _, logs in results for name in logs}
        return {
            "rewards": torch.tensor([r[0] for r in results], dtype=torch.float32),
            "scores": torch.tensor([r[1] for r in results], dtype=torch.float32),
            "extra_logs": {
                name: sum(logs.get(name, 0.0) for _, _, logs in results) / len(results)
                for name in sorted(names)
            },
        }

    return reward_func
