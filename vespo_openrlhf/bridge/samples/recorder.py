"""`--run.record`: every sample that an engine has delivered, as shards in the run folder.

RUN/recorded/000012-0000.parquet     delivered up to the end of the 12th rollout batch

A thread of its own makes and writes them, so that nothing waits. A shard is written at the end of
each rollout batch, and where much has gathered before that, so a kill costs two minutes of samples
at most; a checkpoint waits for those before it. So a resume knows what came after it.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch

from vespo_openrlhf.bridge.events import Event, Generated, Scored
from vespo_openrlhf.bridge.wire import Rollout
from vespo_openrlhf.recorded.reading import FOLDER
from vespo_openrlhf.recorded.schema import REWARD_MODEL, Origin, RecordedSample
from vespo_openrlhf.recorded.writing import write_shard
from vespo_openrlhf.scheduling import Request
from vespo_openrlhf.scheduling.lag import Spans

logger = logging.getLogger(__name__)

# What is written without waiting for the end of the batch: so many bytes, or as old, in seconds.
_MOST_BYTES = 2**26
_OLDEST_SECONDS = 60.0


@dataclass
class _Group:
    """What is known of a group before its samples are scored."""

    request: Request
    text: tuple[str, str]  # prompt and label
    engine: str
    dispatched_at: float
    generated: dict[int, tuple[Spans, float]] = field(default_factory=dict)


class Recorder:
    """Writes what the engines deliver.

    Args:
        run: the run folder.
        origin: of every shard.
        step: rollout batches trained.

    Raises:
        OSError: from any method but the first, where an earlier shard could not be written.
    """

    def __init__(self, run: Path, origin: Origin, step: int) -> None:
        self._folder = run / FOLDER
        if step and not self._folder.exists():
            logger.warning(
                "--run.record is new to this run: %s begins after rollout batch %d. What was "
                "trained before is not in it, and a replay has to start from a model of that time",
                *(self._folder, step),
            )
        self._origin = origin
        self._step = step + 1
        self._part = 0
        self._pending: list[tuple[_Group, Scored, float]] = []
        self._bytes = 0
        self._since = 0.0
        self._thread = ThreadPoolExecutor(1, "recorder")
        self._writing: list[Future[None]] = []

    def begin(self, request: Request, prompt: str, label: str, engine: str) -> _Group:
        """A group is sent to an engine."""
        return _Group(request, (prompt, label), engine, time.time())

    def take(self, group: _Group, event: Event) -> None:
        """One of its events."""
        if isinstance(event, Generated):
            group.generated[event.sample] = event.spans, time.time()
        elif isinstance(event, Scored):
            now = time.time()
            if not self._pending:
                self._since = now
            if event.rollout is not None:
                # Without the experts, which may be many times the rest.
                kept = dataclasses.replace(event.rollout, routed_experts=None)
                event = dataclasses.replace(event, rollout=kept)
                self._bytes += 9 * kept.experience.sequences.numel()
            self._pending.append((group, event, now))
            if self._bytes > _MOST_BYTES:
                self._write()
        self.write_old()

    def write_old(self) -> None:
        """Write what has waited for long; to be called now and then where nothing is delivered."""
        if self._pending and time.time() - self._since > _OLDEST_SECONDS:
            self._write()

    def end_batch(self) -> None:
        """A rollout batch is trained: what comes now belongs to the next."""
        self._write()
        self._step += 1
        self._part = 0

    def settle(self) -> None:
        """Wait until all shards so far are written."""
        for future in self._writing:
            future.result()
        self._writing = []

    def close(self) -> None:
        """Write what is left."""
        try:
            self._write()
            self.settle()
        finally:
            self._thread.shutdown()

    def _write(self) -> None:
        while self._writing and self._writing[0].done():
            self._writing[0].result()  # one that failed stays, for whoever asks next
            self._writing.pop(0)
        if self._pending:
            path = self._folder / f"{self._step:06d}-{self._part:04d}.parquet"
            pending, self._pending, self._bytes = self._pending, [], 0
            self._part += 1
            self._writing.append(self._thread.submit(_write, path, pending, self._origin))


def _write(path: Path, pending: Sequence[tuple[_Group, Scored, float]], origin: Origin) -> None:
    write_shard(path, [_to_sample(*each) for each in pending], origin)


def _to_sample(group: _Group, scored: Scored, scored_at: float) -> RecordedSample:
    request, (prompt, label) = group.request, group.text
    spans, generated_at = group.generated.get(scored.sample, ((), float("nan")))
    made = {} if scored.rollout is None else _of_rollout(scored.rollout)
    reward, failure = scored.reward, scored.reason
    if reward is not None and scored.rollout and scored.rollout.experience.rewards is None:
        reward, failure = None, REWARD_MODEL
    return RecordedSample(
        ticket=request.ticket,
        sample=scored.sample,
        samples=request.samples,
        prompt_id=request.prompt.name,
        epoch=request.prompt.epoch,
        row=request.prompt.row,
        prompt=prompt,
        label=label,
        token_versions=spans,
        reward=reward,
        failure=failure,
        engine=group.engine,
        version=request.version,
        dispatched_at=group.dispatched_at,
        generated_at=generated_at,
        scored_at=scored_at,
        **{"tokens": numpy.empty(0), "action_mask": numpy.empty(0), **made},
    )


def _of_rollout(rollout: Rollout) -> dict[str, Any]:
    """What the engine made. OpenRLHF's masks and log-probs are at the position that predicts a
    token; here they are at the token's own."""
    experience = rollout.experience
    log_probs = experience.rollout_log_probs
    return {
        "tokens": experience.sequences[0].numpy(),
        "action_mask": _at_tokens(experience.action_mask[0].bool()),
        "log_probs": None if log_probs is None else _at_tokens(log_probs[0]),
        "turns": rollout.turns,
        "logged": _logged(experience),
        "finish_reason": "length" if bool(experience.truncated[0]) else "stop",
    }


def _at_tokens(values: torch.Tensor) -> Any:
    found = numpy.zeros(len(values) + 1, dtype=values.numpy().dtype)
    found[1:] = values.numpy()
    return found


def _logged(experience: Any) -> Mapping[str, float]:
    found = dict(experience.info)
    found.pop("reward", None)
    found.pop("response_clip_ratio", None)  # of --data.max_len, which a replay may have another of
    if experience.scores is not None:
        found["score"] = experience.scores
    return {name: float(value.item()) for name, value in found.items() if value.numel() == 1}
