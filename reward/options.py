"""The options of the reward, read once from the environment.

OpenRLHF loads a reward file without arguments, in processes of Ray's; so the options travel as
one JSON object in the environment variable ``REWARD_OPTIONS``, which the training command line
sets from its ``--reward.*`` flags. Every shaping term is off by
default, and the correctness that evaluation reads is never shaped.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass

from vespo_openrlhf.options import Options, option

VARIABLE = "REWARD_OPTIONS"
LANGUAGES = ("en", "zh", "ja", "ko", "ru", "ar", "el", "he", "hi", "th")
_size = functools.partial(option, at_least=0, below=math.inf)


@dataclass(frozen=True)
class RewardOptions(Options):
    """What a run may change about its reward."""

    require_box: bool = option(
        True,
        'an answer must stand in \\boxed{}; false also takes one that follows "answer:"',
    )
    timeout_s: float = option(
        5.0, "seconds one comparison may run before its process is killed", above=0, at_most=600
    )
    sources: Mapping[str, str] = option(
        factory=dict,
        help="labels of this source are scored by a function of yours, score(response, label, "
        "prompt): gsm8k=path/to/file.py:score",
    )
    tokenizer: str = option(
        "", "name or path of the tokenizer that counts tokens for --reward.overlong_max"
    )
    overlong_max: int = option(
        0,
        "DAPO's soft overlong punishment: the longest response in tokens, 0 for none",
        at_least=0,
    )
    overlong_buffer: int = option(
        4096,
        "tokens before --reward.overlong_max over which the punishment grows to its full",
        at_least=0,
    )
    overlong_penalty: float = _size(1.0, "that full punishment")
    truncation_penalty: float = _size(0.0, "taken off where the response does not end its turn")
    format_reward: float = _size(0.0, "given for one <think> block with an answer after it")
    repetition_penalty: float = _size(0.0, "times the share of n-grams that are repeats, taken off")
    repetition_ngram: int = option(20, "the n, in words", at_least=2)
    language: str = option("", "what the answer's prose must be written in", choices=LANGUAGES)
    language_penalty: float = _size(0.0, "times the share of letters in another script, taken off")
    clip_low: float = option(-1.0, "the reward with all terms is clipped to at least this")
    clip_high: float = option(2.0, "and to at most this")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.overlong_max and not self.tokenizer:
            raise ValueError(
                "overlong_max counts tokens: set tokenizer to the model's name or path"
            )
        if self.overlong_max and not 0 < self.overlong_buffer <= self.overlong_max:
            raise ValueError("overlong_buffer must be between 1 and overlong_max")
        if self.language_penalty and not self.language:
            raise ValueError("language_penalty needs language")
        if not self.clip_low < self.clip_high:
            raise ValueError("clip_low must be below clip_high")
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
