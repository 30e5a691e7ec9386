"""OpenRLHF's ``reward_func(queries, prompts, labels)`` around a function for one sample."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.reward.pool import own_thread
from vespo_openrlhf.reward.reading.query import split_query
from vespo_openrlhf.reward.shaping import shape, shaping_terms, terms_on
from vespo_openrlhf.reward.verdict import REASONS, noting_unjudged

logger = logging.getLogger(__name__)

RewardFunc = Callable[[Sequence[str], Sequence[str], Sequence[Any]], dict[str, Any]]
_THREADS = 8


@dataclass(frozen=True)
class Score:
    """What one sample earns: its score, unshaped, and numbers to log."""

    value: float
    logs: dict[str, float] = field(default_factory=dict)


ScoreSample = Callable[[str, Any, str], Score]


def batched(
    score: ScoreSample,
    options: RewardOptions,
    counts: Iterable[str] = tuple(REASONS),
    *,
    uses_workers: bool = True,
) -> RewardFunc:
    """The reward function of a scorer.

    It returns ``rewards`` (shaped) and ``scores`` (not shaped) as float tensors of shape
    [samples], and ``extra_logs`` of plain numbers, means over the samples of the call that have
    them. It never raises: a sample whose scorer does scores 0, is logged as an error and counted as
    ``error``. Where the verifier was busy or gone, in the scorer or in a ``verify`` that it calls,
    reward and score are NaN: the trainer leaves the sample out.

    Args:
        score: the scorer of one sample.
        options: of shaping.
        counts: logs that are 0 unless the scorer says otherwise. Every sample has these,
            ``length``, ``verify_ms``, ``error`` and its shaping terms, however its scoring ends.
        uses_workers: kept as an attribute of the reward function, for checks before a run.
    """
    fixed = (*counts, "length", "verify_ms", "error", *map("shaping_{}".format, terms_on(options)))

    def one(query: str, prompt: str, label: Any) -> tuple[float, float, dict[str, float]]:
        logs = dict.fromkeys(fixed, 0.0)
        with noting_unjudged() as unjudged:
            try:
                with own_thread.turn:
                    response = split_query(query, prompt)
                logs["length"] = float(len(response))
                started = time.perf_counter()
                try:
                    result = score(response, label, prompt)
                finally:
                    logs["verify_ms"] = 1000 * (time.perf_counter() - started)
                if not unjudged:
                    if not math.isfinite(result.value):
                        raise ValueError(f"the score is {result.value}")
                    with own_thread.turn:
                        terms = shaping_terms(response, options)
                    shaping = {f"shaping_{name}": value for name, value in terms.items()}
                    reward = shape(result.value, terms, options)
                    return reward, result.value, {**logs, **result.logs, **shaping}
            except Exception:
                logs["error"] = 1.0
                if not unjudged:
                    logger.exception("a sample could not be scored; it scores 0")
                    return 0.0, 0.0, logs
        return math.nan, math.nan, {**logs, unjudged[0]: 1.0}

    def reward_func(
        queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]
    ) -> dict[str, Any]:
        import torch

        if len(queries) == 1:
            results = [one(queries[0], prompts[0], labels[0])]
        else:
            with ThreadPoolExecutor(_THREADS) as threads:
                results = list(threads.map(one, queries, prompts, labels))
        logged: dict[str, list[float]] = {}
        for _, _, logs in results:
            for name, value in logs.items():
                logged.setdefault(name, []).append(value)
        return {
            "rewards": torch.tensor([r[0] for r in results], dtype=torch.float32),
            "scores": torch.tensor([r[1] for r in results], dtype=torch.float32),
            "extra_logs": {name: sum(logged[name]) / len(logged[name]) for name in sorted(logged)},
        }

    vars(reward_func)["uses_workers"] = uses_workers
    return reward_func
