"""What the study trains on. A task is a file here with a subclass of `Task`, and no edit elsewhere.

Shapes: B sequences, P prompt tokens (as many in every prompt of a task), A response tokens
(padded), T = P + A.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn


def response_mask(responses_BA: Tensor, end: int) -> Tensor:
    """(B, A) bool: True up to the first `end` and on it. Padding may be drawn before that."""
    ends_BA = responses_BA == end
    return ends_BA.cumsum(dim=1) == ends_BA


@dataclass(frozen=True)
class Samples:
    """Responses, and the log-probs they were sampled with.

    Attributes:
        ids: (B, T) int64, prompt and response, padding after the end.
        mask: (B, A) bool: True on response tokens, the end among them.
        log_probs: (B, A) float32 log mu of each response token, in nats; 0 after the end.
        entropy: (B, A) float32 entropy of the distribution each was drawn from; 0 likewise.
    """

    ids: Tensor
    mask: Tensor
    log_probs: Tensor
    entropy: Tensor

    @property
    def responses(self) -> Tensor:
        """(B, A) int64 response ids."""
        return self.ids[:, self.ids.shape[1] - self.mask.shape[1] :]

    @staticmethod
    def cat(parts: Sequence[Samples]) -> Samples:
        """One after the other."""
        fields = ("ids", "mask", "log_probs", "entropy")
        return Samples(*(torch.cat([getattr(part, name) for part in parts]) for name in fields))

    def rows(self, rows: slice) -> Samples:
        """Some of the sequences."""
        return Samples(self.ids[rows], self.mask[rows], self.log_probs[rows], self.entropy[rows])


class Policy(nn.Module, ABC):
    """Reads and writes a task's tokens."""

    @abstractmethod
    def log_probs(self, ids_BT: Tensor) -> Tensor:
        """(B, A) log pi of the response tokens, with the gradient; anything after the end."""

    @abstractmethod
    def sample(
        self, prompts_BP: Tensor, generator: torch.Generator, *, logit_noise: float = 0.0
    ) -> Samples:
        """One response to each prompt at temperature 1, from the whole distribution.

        Args:
            prompts_BP: (B, P) int64.
            generator: of the draws.
            logit_noise: standard deviation of Gaussian noise on each logit. It is drawn from, and
                reported, what comes out: an engine that does not compute what the trainer does.
        """


class Task(ABC):
    """What is asked, how a policy learns to answer badly, and which answers are right.

    Attributes:
        name: of the task.
        prompt_tokens, max_response_tokens: P, and A at most.
        end: id of the token that ends a response.
        learning_rate: at which the on-policy control ends near its best in a run of the study.
        recipe: what a run of it has other than by default, by the names of `cells.Recipe`.
    """

    name: str
    learning_rate: float = 3e-4
    recipe: Mapping[str, Any] = MappingProxyType({})
    prompt_tokens: int
    max_response_tokens: int
    end: int

    @property
    def max_tokens(self) -> int:
        """T at most."""
        return self.prompt_tokens + self.max_response_tokens

    @abstractmethod
    def split(self, seed: int, sizes: Sequence[int]) -> list[list[Any]]:
        """Lists of problems of these sizes that share none; the same for the same seed."""

    @abstractmethod
    def encode_prompts(self, problems: Sequence[Any]) -> Tensor:
        """(B, P) int64 ids of the prompts."""

    @abstractmethod
    def encode_answers(self, problems: Sequence[Any]) -> Tensor:
        """(B, ...) int64, as `is_right` takes them."""

    @abstractmethod
    def demonstrations(self, problems: Sequence[Any], slip: float, seed: int) -> Tensor:
        """(B, T) int64: prompts and solutions, in which each digit slips with chance `slip`.

        Args:
            problems: B of them.
            slip: the chance that a digit of the solution is replaced by a random one, which may be
                the same; 0 to 1.
            seed: of the slips, and of whatever else a demonstration is free to choose.
        """

    @abstractmethod
    def is_right(self, responses_BA: Tensor, answers: Tensor) -> Tensor:
        """(B,) bool.

        Args:
            responses_BA: (B, A) int64 ids, padded after the end.
            answers: of `encode_answers`, row by row for the same problems.
        """

    @abstractmethod
    def policy(self, width: int, layers: int, heads: int) -> Policy:
        """An untrained one; not all take all sizes."""


def digit_problems(
    rng: random.Random, digits: int, sizes: Sequence[int]
) -> list[list[tuple[int, ...]]]:
    """Lists of these sizes of problems of so many random digits, all of them different."""
    problems: dict[tuple[int, ...], None] = {}
    while len(problems) < sum(sizes):
        problems[tuple(rng.randrange(10) for _ in range(digits))] = None
    every = iter(problems)
    return [[next(every) for _ in range(size)] for size in sizes]


@functools.cache
def tasks() -> dict[str, Task]:
    """All of them by their names."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
    found: dict[str, Task] = {}
    waiting = Task.__subclasses__()
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if "name" in vars(kind):
            found[kind.name] = kind()
    return dict(sorted(found.items()))


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: there is none.
    """
    known = tasks()
    if name not in known:
        raise ValueError(f"unknown task {name!r}. Known: {', '.join(known)}")
    return known[name]
