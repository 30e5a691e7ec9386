"""Whether an engine samples from the policy that is trained, asked when it has been given weights.

Weights can arrive and still be wrong there: experts that vLLM keeps in a layout of its own, a layer
that is loaded under another name. Nothing fails then; only the importance weights are wrong. So an
engine samples a few tokens, and the trainer says how likely they are by its own weights.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from vllm import SamplingParams
from vllm.inputs import TokensPrompt
from vllm.sampling_params import RequestOutputKind
from vllm.utils import random_uuid

from vespo_openrlhf.bridge.samples.response import to_rows

# Enough to tell: what is wrong with weights is wrong at every token.
_PROMPTS = 4
_PROMPT_TOKENS = 64
_SAMPLED_TOKENS = 16

#: Mean absolute difference of the log-probs of a sampled token, in nats. In float32 the two differ
#: by 1e-6; in bfloat16 as a rule by 0.01 to 0.05, and weights that do not fit by 1 and more.
TOLERANCES = {"fp32": 1e-4}
HALF_PRECISION_TOLERANCE = 0.1


class Trial(NamedTuple):
    """One sequence of an engine's: the tokens of prompt and response, the log-probs at which the
    response was sampled, at temperature 1, and the experts that it took, where the engine tells."""

    tokens: list[int]
    log_probs: list[float]
    routed_experts: torch.Tensor | None = None


def tolerance(asked_for: float | None, param_dtype: str) -> float:
    """`--vllm.weight_tolerance`, or what suits the trainer's type; 0 for no check."""
    if asked_for is not None:
        return asked_for
    return TOLERANCES.get(param_dtype, HALF_PRECISION_TOLERANCE)


def trial_prompts(prompts: Sequence[str], images: Sequence[Any], tokenizer: Any) -> list[list[int]]:
    """The beginnings of the first prompts without images, in tokens."""
    chosen = [text for text, image in zip(prompts, images, strict=True) if not image][:_PROMPTS]
    encoded = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in chosen]
    encoded = [list(tokens[:_PROMPT_TOKENS]) for tokens in encoded if tokens]
    return encoded or [[tokenizer.eos_token_id]]


async def sample(llm: Any, prompts: Sequence[list[int]]) -> list[Trial]:
    """Sample a few tokens after each prompt from vLLM's asynchronous engine.

    With a seed of its own each, so that nobody else's samples change. At temperature 1 and without
    filters, raw and processed log-probs are the same.
    """
    sampling = SamplingParams(
        temperature=1.0,
        seed=0,
        max_tokens=_SAMPLED_TOKENS,
        logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )

    async def trial(prompt: list[int]) -> Trial:
        inputs = TokensPrompt(prompt_token_ids=prompt)
        async for output in llm.generate(inputs, sampling.clone(), random_uuid()):
            completion = output.outputs[0]
        log_probs = zip(completion.token_ids, completion.logprobs, strict=True)
        return Trial(
            [*prompt, *completion.token_ids],
            [candidates[token].logprob for token, candidates in log_probs],
            to_rows(completion.routed_experts),
        )

    return await asyncio.gather(*map(trial, prompts))


def difference(trials: Sequence[Trial], scored: Sequence[Sequence[float]]) -> float:
    """Mean absolute difference of the two sides' log-probs of the sampled tokens.

    Args:
        trials: the engine's.
        scored: the trainer's log-probs of every token but the first, by sequence.

    Returns:
        NaN or infinity where either side's are not finite.
    """
    gaps = [
        abs(ours - theirs)
        for trial, log_probs in zip(trials, scored, strict=True)
        for ours, theirs in zip(trial.log_probs, log_probs[-len(trial.log_probs) :], strict=True)
    ]
    return sum(gaps) / len(gaps)


def complaint(engine: str, version: int, gap: float, allowed: float) -> str:
    """What to tell the user, and where to look."""
    return (
        f"{engine} does not sample from the policy that is trained: given the weights of version "
        f"{version}, it samples tokens whose log-probs are {gap:.2g} away from the trainer's (mean "
        f"absolute difference; allowed: {allowed:g}). Training on them would go wrong in silence. "
        "Likely causes: a mixture of experts whose weights vLLM keeps in a layout of its own, so "
        "that new ones do not arrive; an engine that is quantised, by the model's config.json or "
        "an environment variable; engine and trainer in different types (--ds.param_dtype); tied "
        "weights, or a layer, that one side has and the other has not; a model whose code in vLLM "
        "is not that in transformers. If the two are meant to differ this much, set "
        "--vllm.weight_tolerance above it, or to 0 for no check"
    )
