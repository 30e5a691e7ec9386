"""What the engine was asked, and which tokens of a sample it has answered.

The versions of a sample's tokens are those of the requests that sampled them. An agent may ask by
way of a server of its own, from another thread, for several samples in one task: so a request is
found by what was asked and answered, and not by who asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy

from vespo_openrlhf.bridge.errors import UntoldExpertsError
from vespo_openrlhf.bridge.samples.sample import Sample
from vespo_openrlhf.scheduling.lag import Spans


@dataclass(frozen=True, eq=False)
class Answered:
    """A request that the engine has answered.

    Attributes:
        request_id: the engine's.
        prompt: the tokens it was asked to go on from.
        tokens: those that it has sampled.
        spans: their versions.
        routed_experts: as vLLM's `CompletionOutput` has them; None where it was not asked.
        sample: in whose task it was made; None where nobody knows.
    """

    request_id: str
    prompt: list[int]
    tokens: list[int]
    spans: Spans
    routed_experts: Any = None
    sample: Sample | None = None


class Origin(NamedTuple):
    """Where the tokens of a sample are from.

    Attributes:
        spans: their versions, oldest first. Of tokens that nobody has sampled, the oldest that
            they can have.
        request_ids: the requests that sampled them.
        routed_experts: of its first tokens, as vLLM has them; None where it was not asked.
        unknown: sampled tokens that no request has answered.
    """

    spans: Spans
    request_ids: tuple[str, ...]
    routed_experts: Any
    unknown: int


class RequestLog:
    """The answered requests of an engine that no sample has been found for yet."""

    def __init__(self) -> None:
        self._answered: dict[int, list[Answered]] = {}  # by the hash of the prompt
        self._numbers: dict[Answered, tuple[int, int]] = {}  # its own, and that hash
        self._number = 0
        self._living: dict[Sample, int] = {}  # which number was the next when it began

    @property
    def living(self) -> list[Sample]:
        """The samples that are being made."""
        return list(self._living)

    def begin(self, sample: Sample) -> None:
        """What is answered from now on may be the sample's."""
        self._living[sample] = self._number

    def end(self, sample: Sample) -> None:
        """It has all of its own; what is nobody's who is left is forgotten."""
        del self._living[sample]
        oldest = min(self._living.values(), default=self._number)
        for request in [r for r, (number, _) in self._numbers.items() if number < oldest]:
            self._forget(request)

    def add(self, request: Answered) -> None:
        """It was answered just now."""
        if self._living:
            key = hash(tuple(request.prompt))
            self._answered.setdefault(key, []).append(request)
            self._numbers[request] = self._number, key
            self._number += 1

    def claim(
        self, sample: Sample, tokens: Sequence[int], ranges: Sequence[tuple[int, int]]
    ) -> Origin:
        """Where a sample's tokens are from. What it claims is nobody else's.

        Args:
            tokens: of the whole sample.
            ranges: (start, end) of those that it says were sampled.
        """
        found: list[tuple[Answered, int]] = []  # with where its tokens end in the sample
        spans: list[tuple[int, int]] = []
        unknown = 0
        for start, end in ranges:
            while start < end:
                request = self._find(sample, tokens, start, end)
                if request is None:
                    unknown += end - start
                    break
                self._forget(request)
                taken = min(len(request.tokens), end - start)
                spans += first_tokens(request.spans, taken)
                start += taken
                found.append((request, start))
        if unknown:
            spans.append((sample.version, unknown))
        return Origin(
            join_spans(sorted(spans, key=lambda span: span[0])) or ((sample.version, 0),),
            tuple(request.request_id for request, _ in found),
            join_turns(found, len(tokens)),
            unknown,
        )

    def _find(self, sample: Sample, tokens: Sequence[int], start: int, end: int) -> Answered | None:
        """The request that has sampled tokens[start:...], its own if it can be; of several the one
        that has sampled the most, then the first."""
        prompt, left = list(tokens[:start]), list(tokens[start:end])
        fitting = [
            request
            for request in self._answered.get(hash(tuple(prompt)), ())
            if request.tokens
            # Of an equal prompt maybe, before this one began: the scheduler would refuse it.
            and request.spans[0][0] >= sample.version
            and request.prompt == prompt
            and request.tokens[: len(left)] == left[: len(request.tokens)]
        ]
        return max(
            fitting,
            key=lambda request: (request.sample is sample, len(request.tokens)),
            default=None,
        )

    def _forget(self, request: Answered) -> None:
        _, key = self._numbers.pop(request)
        self._answered[key].remove(request)
        if not self._answered[key]:
            del self._answered[key]


def first_tokens(spans: Spans, count: int) -> Iterator[tuple[int, int]]:
    """The spans of the first `count` tokens."""
    for version, tokens in spans:
        if count > 0:
            yield version, min(tokens, count)
        count -= tokens


def join_spans(spans: Sequence[tuple[int, int]]) -> Spans:
    """Spans one after the other, each version once, without those of no tokens."""
    joined: list[tuple[int, int]] = []
    for version, tokens in spans:
        if joined and joined[-1][0] == version:
            joined[-1] = (version, joined[-1][1] + tokens)
        elif tokens:
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


def join_turns(requests: Sequence[tuple[Answered, int]], length: int) -> Any:
    """(n, layers, k): the experts of a sample's first tokens, each as it was sampled, where a later
    turn's prompt has computed it again, with newer weights maybe. None where nobody told.

    Args:
        requests: those that sampled them, in order, each with how many of the sample's tokens its
            prompt and answer are.
        length: of the sample, in tokens; the last passes through no expert.
    """
    rows = None
    for request, end in requests:
        if request.routed_experts is None:
            return None
        told = request.routed_experts[: min(end, length - 1)]
        rows = told if rows is None else numpy.concatenate([rows, told[len(rows) :]])
    return rows
