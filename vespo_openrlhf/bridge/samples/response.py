"""One response in the engine's process: from what OpenRLHF's executors answer to what is sent to
the driver.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from vllm.logprobs import Logprob


class RememberingTokenizer:
    """A tokenizer that knows what it last made of a text: OpenRLHF's executor has the prompt of a
    group tokenised for each of its samples. What it returns is shared, and not to be changed.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._asked: dict[str, Any] | None = None
        self._answer: Any = None

    def __call__(self, **asked: Any) -> Any:
        if asked != self._asked:
            self._asked, self._answer = asked, self._tokenizer(**asked)
        return self._answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def mark_missing_log_probs(completion: Any) -> None:
    """A sampled token without a log-prob gets NaN: OpenRLHF's executor would write 0, certainty,
    for it, where the loss drops a sample that has one that is not finite."""
    if completion.logprobs is None:
        return
    for token, log_probs in zip(completion.token_ids, completion.logprobs, strict=True):
        if token not in log_probs:
            log_probs[token] = Logprob(logprob=math.nan)


def to_experience(response: Mapping[str, Any], max_length: int) -> Experience:
    """What an executor returns as OpenRLHF's `Experience` of a batch of one.

    Args:
        response: as `SingleTurnAgentExecutor.execute` returns it.
        max_length: in tokens; what goes beyond is cut off.
    """
    tokens = torch.tensor(response["observation_tokens"][:max_length], dtype=torch.long)
    length = len(tokens)
    acted = torch.zeros(length, dtype=torch.long)
    for start, end in response["action_ranges"]:
        acted[start:end] = 1
    acted = acted[1:]  # at the position that predicts the token
    places = acted.nonzero().flatten().tolist()
    log_probs = response["rollout_log_probs"]
    reward, score = response.get("reward"), response.get("scores")
    logged = {"reward": reward, "score": score} | dict(response.get("extra_logs") or {})
    info = {"response_clip_ratio": torch.tensor([length >= max_length])}
    for name, value in logged.items():
        if isinstance(value, torch.Tensor):
            value = value.flatten()[0].item()
        if value is not None:
            info[name] = torch.tensor([value])
    return Experience(
        sequences=tokens[None],
        attention_mask=torch.ones(1, length, dtype=torch.long),
        action_mask=acted[None],
        rollout_log_probs=None
        if log_probs is None
        else torch.tensor(log_probs[1:max_length])[None],
        prompts=[response["prompt"]],
        labels=[response["label"]],
        images=[response.get("images")],
        mm_train_inputs=[response.get("mm_train_inputs")],
        rewards=None if reward is None else torch.tensor([reward]),
        scores=None if score is None else torch.tensor([score]),
        response_length=torch.tensor([places[-1] - places[0] + 1 if places else 0]),
        truncated=torch.tensor([response.get("truncated", False)]),
        total_length=torch.tensor([float(length)]),
        info=info,
    )


def to_rows(routed_experts: Any) -> torch.Tensor | None:
    """(n, layers, k) experts of the first n tokens of a sequence: of all that another token was
    sampled after. uint8, or int16 where there are more than 256.

    Args:
        routed_experts: as vLLM's `CompletionOutput` has them; None where it was not asked.
    """
    rows = routed_experts
    if rows is None:
        return None
    if rows.dtype == numpy.uint16:  # which torch hardly knows
        rows = rows.astype(numpy.int16)
    return torch.from_numpy(rows)


def verdict(experience: Experience, executor: Any) -> float | None:
    """A sample's reward; None if it should have one and has none."""
    if experience.rewards is not None:
        return float(experience.rewards[0])
    # A reward model scores later, in the trainer.
    scores_here = bool(getattr(executor, "reward_endpoints", True))
    return None if scores_here else 0.0
