"""One response in the engine's process, from its first token to what is sent to the driver.

OpenRLHF's executors make a response and score it: they are given a view of the engine that bounds
the time away from it and gathers the versions of all turns.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from vllm.logprobs import Logprob

from vespo_openrlhf.bridge.errors import UntoldExpertsError
from vespo_openrlhf.scheduling.lag import Spans


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


class SampleEngine:
    """The engine as one sample's executor sees it: the same, and it remembers the versions."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self.spans: Spans = ((engine.version, 0),)
        self.request_ids: list[str] = []
        self._experts: Any = None  # as vLLM's `CompletionOutput` has them, over all turns
        self._tokens: list[int] = []  # theirs, and the one after
        self.on_generated: Any = None
        self.reported = False
        self._turns = 0  # under way on the engine
        self._away_since = time.monotonic()

    async def generate(
        self, prompt_token_ids: Any, sampling_params: Any, multi_modal_data: Any = None
    ) -> Any:
        self._turns += 1
        try:
            output = await self._engine.generate(
                prompt_token_ids, sampling_params, multi_modal_data
            )
        finally:
            self._turns -= 1
            self._away_since = time.monotonic()
        self.spans = join_spans(self.spans, output.token_versions)
        self.request_ids.append(output.request_id)
        if output.routed_experts is not None:
            same = _common(self._tokens, prompt_token_ids)
            self._experts = join_turns(self._experts, output.routed_experts, same)
            self._tokens = [*prompt_token_ids, *output.outputs[0].token_ids]
        if self.on_generated is not None:
            self.reported = True
            self.on_generated(self.spans)
        return output

    def routed_experts(self, sequence: torch.Tensor) -> torch.Tensor | None:
        """Rows of `to_rows` for the (T,) tokens of the sample, as far as they are what the last
        turn left: an agent may answer with something else."""
        if self._experts is None:
            return None
        same = _common(self._tokens, sequence.tolist())
        return to_rows(self._experts[: min(same, len(sequence) - 1)])

    async def respond(self, seconds: float, *, sampling_params: Any, **asked: Any) -> Any:
        """What the engine's executor answers, which generates with this view of the engine.

        Raises:
            TimeoutError: it has been away from the engine for as many seconds at a stretch, with
                its reward or its environment. Time on the engine is for the driver to bound.
        """
        work = self._engine.executor.execute(
            llm_engine=self, sampling_params=sampling_params.clone(), **asked
        )
        task = asyncio.ensure_future(work)
        try:
            while True:
                away = 0.0 if self._turns else time.monotonic() - self._away_since
                if away >= seconds:
                    raise TimeoutError(f"no word from its reward or environment for {seconds:g} s")
                done, _ = await asyncio.wait({task}, timeout=seconds - away)
                if done:
                    return task.result()
        finally:
            task.cancel()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)


def join_spans(first: Spans, second: Spans) -> Spans:
    """The spans of one turn and of the next, as those of one response."""
    joined = [span for span in first if span[1]]
    for version, tokens in second:
        if joined and joined[-1][0] == version:
            joined[-1] = (version, joined[-1][1] + tokens)
        else:
            joined.append((version, tokens))
    return tuple(joined)


def check_experts(output: Any) -> None:
    """vLLM must have told the experts of every token that another one was sampled after.

    Raises:
        UntoldExpertsError: it has not.
    """
    completion = output.outputs[0]
    expected = len(output.prompt_token_ids) + len(completion.token_ids) - 1
    told = completion.routed_experts
    if told is None or len(told) != expected:
        raise UntoldExpertsError(
            f"--moe.routing_replay engine: vLLM has told the experts of "
            f"{0 if told is None else len(told)} tokens, of {expected} that passed through them: "
            "leave the flag out, or try another version of vLLM"
        )


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = zip(first, second, strict=False)
    differing = (place for place, (one, other) in enumerate(pairs) if one != other)
    return next(differing, min(len(first), len(second)))


def join_turns(first: Any, second: Any, same: int) -> Any:
    """The experts of one turn's tokens and of all tokens up to the next one's end, as those of one
    response: what is sampled keeps those that sampled it, where a later turn's prompt has computed
    it again, with newer weights maybe.

    Args:
        first: (n, layers, k), or None before the first turn.
        second: (m, layers, k).
        same: tokens that both turns begin with: an agent may have rewritten what was said.
    """
    if first is None:
        return second
    kept = first[:same]
    return numpy.concatenate([kept, second[len(kept) :]])


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
