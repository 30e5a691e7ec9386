"""Responses from vLLM, in this process's own engine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Response:
    """One response: its text (special tokens kept), its length in tokens, and why it ended."""

    text: str
    num_tokens: int
    finish_reason: str


class Generator:
    """A vLLM engine on one model, in float32 where there is no GPU.

    Args:
        model: a model folder or a hub id, with a chat template.
        max_tokens: longest response, in tokens.
        seed: every problem and repeat gets a seed of its own from it, so that a run can be
            repeated and does not depend on how vLLM batches.

    Raises:
        ValueError: the model's tokenizer has no chat template.
    """

    def __init__(self, model: str, *, max_tokens: int, seed: int = 0) -> None:
        from vespo_openrlhf import cpu

        engine: dict[str, Any] = {"model": model, "seed": seed}
        if cpu.is_active():
            from vespo_openrlhf.cpu import settings

            os.environ.update(settings.environment())
            engine |= {"dtype": "float32", "enforce_eager": True}
        # The engine core in this process: one less to start.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        import vllm

        self._vllm = vllm
        self._llm = vllm.LLM(**engine)
        self._max_tokens = max_tokens
        self._seed = seed
        self._tokenizer = self._llm.get_tokenizer()
        if not self._tokenizer.chat_template:
            raise ValueError(f"{model} has no chat template, so its prompts cannot be rendered")

    def sample(
        self, prompts: Sequence[str], *, repeats: int, temperature: float
    ) -> list[list[Response]]:
        """`repeats` responses to each prompt (a user's message); temperature 0 is greedy."""
        rendered = [self._render(prompt) for prompt in prompts]
        requests = [{"prompt_token_ids": ids} for ids in rendered for _ in range(repeats)]
        parameters = [
            self._vllm.SamplingParams(
                temperature=temperature,
                max_tokens=self._max_tokens,
                seed=self._seed + index,
                skip_special_tokens=False,
            )
            for index in range(len(requests))
        ]
        outputs = self._llm.generate(requests, parameters)
        responses = [
            Response(
                text=output.outputs[0].text,
                num_tokens=len(output.outputs[0].token_ids),
                finish_reason=output.outputs[0].finish_reason or "",
            )
            for output in outputs
        ]
        return [responses[i : i + repeats] for i in range(0, len(responses), repeats)]

    def _render(self, prompt: str) -> list[int]:
        text = self._tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids
