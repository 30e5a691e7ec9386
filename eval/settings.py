"""What decides the responses: two runs with the same settings may share a folder of records."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vespo_openrlhf.eval.prompts import find_template
from vespo_openrlhf.redact import redact


@dataclass(frozen=True)
class Settings:
    """Sampling and prompting.

    Attributes:
        engine: "vllm" (this machine's or a Ray cluster's) or "endpoint".
        temperature: 0 is greedy.
        top_p: nucleus sampling.
        max_tokens: longest response; a model's context may end it before.
        seed: of the whole run; every response gets its own from it, see `seed_of`.
        stop: strings that end a response.
        template: prompt template for every benchmark; empty takes each one's own.
        system: system prompt.
        raw: prompts go out without the chat template.
        chat_template_options: for the model's chat template, such as ``enable_thinking``.
        engine_options: for ``vllm.LLM``, such as ``max_model_len``.

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

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 10:
            raise ValueError(f"--temperature must be between 0 and 10, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"--top-p must be above 0 and at most 1, not {self.top_p}")
        if self.max_tokens < 1:
            raise ValueError(f"--max-tokens must be 1 or more, not {self.max_tokens}")
        if self.template:
            find_template(self.template)

    def as_json(self) -> dict[str, Any]:
        """The settings as they stand in a manifest, without the secrets among engine options."""
        loaded: dict[str, Any] = redact(json.loads(json.dumps(asdict(self))))
        return loaded


def seed_of(seed: int, benchmark: str, problem: str, repeat: int) -> int:
    """The seed of one response, 0 to 2^31 - 1: a hash of what it is, not of when it is generated.

    So a response depends neither on the order of the batch nor on what else is in the run.
    """
    key = json.dumps([seed, benchmark, problem, repeat]).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:4], "big") >> 1
