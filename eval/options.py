"""What decides the responses: two runs with the same settings may share a folder of records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vespo_openrlhf.eval.benchmarks.templates import find_template
from vespo_openrlhf.redact import redact

#: Sampling options of vLLM's that are sent only where they are set.
MORE_SAMPLING = ("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")

_RANGES: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: 0 <= value <= 10, "between 0 and 10"),
    "top_p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "max_tokens": (lambda value: value >= 1, "1 or more"),
    "top_k": (lambda value: value >= 1, "1 or more (leave it out for all)"),
    "min_p": (lambda value: 0 <= value <= 1, "between 0 and 1"),
    "repetition_penalty": (lambda value: value > 0, "above 0 (1 is none)"),
    "presence_penalty": (lambda value: -2 <= value <= 2, "between -2 and 2"),
    "frequency_penalty": (lambda value: -2 <= value <= 2, "between -2 and 2"),
    "limit": (lambda value: value >= 1, "1 or more"),
    "few_shot": (lambda value: value >= 1, "1 or more"),
}


@dataclass(frozen=True)
class Options:
    """Sampling and prompting.

    Attributes:
        engine: "vllm" (this machine's or a Ray cluster's) or "endpoint".
        temperature: 0 is greedy.
        top_p: nucleus sampling.
        max_tokens: longest response; a model's context may end it before.
        top_k, min_p, repetition_penalty, presence_penalty, frequency_penalty: as vLLM names them;
            None leaves each to the engine or the server.
        seed: of the whole run; every response gets its own from it, see `seed_of`.
        stop: strings that end a response.
        template: prompt template for every benchmark; empty takes each one's own.
        system: system prompt.
        raw: prompts go out without the chat template.
        chat_template_options: for the model's chat template, such as ``enable_thinking``.
        engine_options: for ``vllm.LLM``, such as ``max_model_len``.
        limit: of each benchmark the first so many problems; None is all.
        few_shot: examples before each problem; None is none.
        few_shot_from: a file of them; None takes each benchmark's own.
        few_shot_text: they stand in the message before the problem, not as turns of the chat.

    Raises:
        ValueError: a value that means nothing.
    """

    engine: str = "vllm"
    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 8192
    seed: int = 0
    stop: tuple[str, ...] = ()
    template: str = ""
    system: str = ""
    raw: bool = False
    chat_template_options: Mapping[str, Any] = field(default_factory=dict)
    engine_options: Mapping[str, Any] = field(default_factory=dict)
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    limit: int | None = None
    few_shot: int | None = None
    few_shot_from: str | None = None
    few_shot_text: bool | None = None

    def __post_init__(self) -> None:
        for name, (is_within, text) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not is_within(value):
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} must be {text}, not {value}")
        if self.few_shot is None and (self.few_shot_from or self.few_shot_text):
            raise ValueError("--few-shot-from and --few-shot-text need --few-shot K")
        if self.template:
            find_template(self.template)

    @property
    def more_sampling(self) -> dict[str, int | float]:
        """What was set of the sampling options that an engine need not be told."""
        values = {name: getattr(self, name) for name in MORE_SAMPLING}
        return {name: value for name, value in values.items() if value is not None}

    def as_json(self) -> dict[str, Any]:
        """The settings as they stand in a manifest: without those that were not set, and without
        the secrets among engine options."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        loaded: dict[str, Any] = redact(json.loads(json.dumps(values)))
        return loaded


def seed_of(seed: int, benchmark: str, problem: str, repeat: int) -> int:
    """The seed of one response, 0 to 2^31 - 1: a hash of what it is, not of when it is generated.

    So a response depends neither on the order of the batch nor on what else is in the run.
    """
    key = json.dumps([seed, benchmark, problem, repeat]).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:4], "big") >> 1
