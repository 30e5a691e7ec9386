"""Whether an engine samples from the policy that is trained, asked when it has been given weights.

Weights can arrive and still be wrong there: experts that vLLM keeps in a layout of its own, a layer
that is loaded under another name. Nothing fails then; only the importance weights are wrong. So an
engine samples a few tokens, and the trainer says how likely they are by its own weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

# Enough to tell: what is wrong with weights is wrong at every token.
_PROMPTS = 4
_PROMPT_TOKENS = 64
SAMPLED_TOKENS = 16

#: Mean absolute difference of the log-probs of a sampled token, in nats. In float32 the two differ
#: by 1e-6; in bfloat16 as a rule by 0.01 to 0.05, and weights that do not fit by 1 and more.
TOLERANCES = {"fp32": 1e-4}
HALF_PRECISION_TOLERANCE = 0.1


class Trial(NamedTuple):
    """One sequence of an engine's: the tokens of prompt and response, and the log-probs at which
    the response was sampled, at temperature 1."""

    tokens: list[int]
    log_probs: list[float]


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
