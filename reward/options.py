"""The options of the reward, read once from the environment.

OpenRLHF loads a reward file without arguments, in processes of Ray's; so the options travel as
one JSON object in the environment variable ``REWARD_OPTIONS``, which the training command line
sets from its ``--reward.*`` flags. Every shaping term is off by
default, and the correctness that evaluation reads is never shaped.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

VARIABLE = "REWARD_OPTIONS"
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
LANGUAGES = ("en", "zh", "ja", "ko", "ru", "ar", "el", "he", "hi", "th")


@dataclass(frozen=True)
class RewardOptions:
    """What a run may change about its reward.

    Attributes:
        require_box: an answer must stand in a box; False also takes one after "answer:".
        timeout_s: seconds one comparison may run.
        sources: label source -> ``file.py:function``, a ``score(response, label, prompt)``.
        tokenizer: name or path of the tokenizer that counts tokens for ``overlong_max``.
        overlong_max: DAPO soft overlong: the longest response in tokens; 0 is off.
        overlong_buffer: tokens before ``overlong_max`` over which the penalty grows to its full.
        overlong_penalty: that full penalty.
        truncation_penalty: taken off where the response does not end its turn.
        format_reward: given for one ``<think>`` block followed by an answer, and nothing before.
        repetition_penalty: times the share of n-grams that are repeats, taken off.
        repetition_ngram: the n, in words.
        language: what the answer's prose must be written in, one of :data:`LANGUAGES`.
        language_penalty: times the share of letters that are not of that language's script.
        clip_low: the shaped reward is clipped to at least this.
        clip_high: and to at most this.
    """

    require_box: bool = True
    timeout_s: float = 5.0
    sources: Mapping[str, str] = field(default_factory=dict)
    tokenizer: str = ""
    overlong_max: int = 0
    overlong_buffer: int = 4096
    overlong_penalty: float = 1.0
    truncation_penalty: float = 0.0
    format_reward: float = 0.0
    repetition_penalty: float = 0.0
    repetition_ngram: int = 20
    language: str = ""
    language_penalty: float = 0.0
    clip_low: float = -1.0
    clip_high: float = 2.0

    def __post_init__(self) -> None:
        for option in dataclasses.fields(self):
            value: Any = getattr(self, option.name)
            kind = type(option.default)
            if kind not in _KINDS:
                continue
            allowed: Any = (int, float) if kind is float else kind
            if isinstance(value, bool) != (kind is bool) or not isinstance(value, allowed):
                raise ValueError(f"{option.name} must be {_KINDS[kind]}, not {value!r}")
            unsigned = kind in (int, float) and not option.name.startswith("clip_")
            if unsigned and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{option.name} must be 0 or more, not {value!r}")
        if not 0 < self.timeout_s <= 600:
            raise ValueError("timeout_s must be between 0 and 600 seconds")
        if self.overlong_max and not self.tokenizer:
            raise ValueError(
                "overlong_max counts tokens: set tokenizer to the model's name or path"
            )
        if self.overlong_max and not 0 < self.overlong_buffer <= self.overlong_max:
            raise ValueError("overlong_buffer must be between 1 and overlong_max")
        if self.repetition_ngram < 2:
            raise ValueError("repetition_ngram must be 2 or more")
        if self.language and self.language not in LANGUAGES:
            raise ValueError(f"language must be one of {', '.join(LANGUAGES)}")
        if self.language_penalty and not self.language:
            raise ValueError("language_penalty needs language")
        if not self.clip_low < self.clip_high:
            raise ValueError("clip_low must be below clip_high")
        if not isinstance(self.sources, Mapping):
            raise ValueError("sources must be an object, source -> file.py:function")
        for source, target in self.sources.items():
            if not isinstance(target, str) or ":" not in target:
                raise ValueError(f"sources: expected {source}=file.py:function, not {target!r}")

    @classmethod
    def from_env(cls, environment: Mapping[str, str] | None = None) -> RewardOptions:
        """The options of this process.

        Raises:
            ValueError: ``REWARD_OPTIONS`` is not a JSON object, or has an unknown or bad option.
        """
        text = (os.environ if environment is None else environment).get(VARIABLE, "")
        if not text.strip():
            return cls()
        try:
            loaded = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{VARIABLE} is not JSON: {error}") from error
        if not isinstance(loaded, dict):
            raise ValueError(f"{VARIABLE} must be a JSON object, not {type(loaded).__name__}")
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(loaded) - known)
        if unknown:
            raise ValueError(f"{VARIABLE}: unknown {unknown}; known are {sorted(known)}")
        return cls(**loaded)

    def to_env(self) -> str:
        """What to set ``REWARD_OPTIONS`` to, only what differs from the defaults."""
        changed = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if getattr(self, f.name) != getattr(RewardOptions(), f.name)
        }
        return json.dumps(changed, sort_keys=True, default=dict)
