"""Log-probs for samples whose behaviour policy is not known: of a policy that is assumed.

They are computed once, before the first update, and kept with the samples as a recording of its
own in the run folder. docs/offline.md says what either assumption costs.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
from tqdm import tqdm

from vespo_openrlhf.bridge.offline.rollouts import to_rollout
from vespo_openrlhf.recorded.checks import Limits
from vespo_openrlhf.recorded.reading import Recording
from vespo_openrlhf.recorded.schema import RecordedSample
from vespo_openrlhf.recorded.writing import ShardWriter

_FOLDER = "behaviour"
# Groups in one forward pass.
_AT_ONCE = 64


def assumed(
    recording: Recording, kind: str, maker: Any, run: Path, step: int, limits: Limits, size: int
) -> Recording:
    """The same samples with the log-probs of an assumed policy.

    Args:
        recording: as it is.
        kind: "initial" or "uniform".
        maker: an `ExperienceMaker`, whose policy is the initial one while `step` is 0.
        run: the run folder, which keeps them.
        step: rollout batches trained.
        limits, size: of `Recording`.

    Raises:
        ValueError: they are gone, and the policy is no longer the initial one.
    """
    args = maker.args
    names = recording.names, recording.digest
    key = [kind, args.actor.model_name_or_path, args.rollout.temperature, *names]
    folder = run / _FOLDER / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    if not folder.exists():
        if step:
            raise ValueError(
                f"{folder} is not there, with the log-probs that the run started from for these "
                "samples, and the policy has been trained since. Where the recording has changed "
                "or grown, give it back as it was; otherwise start again in another --run.dir"
            )
        draft = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(draft, ignore_errors=True)
        writer = ShardWriter(draft, dataclasses.replace(recording.origin, source=kind))
        for sample in _with_log_probs(recording, kind, maker, limits.max_length):
            writer.add(sample)
        writer.flush()
        draft.rename(folder)
    return Recording([folder], size, limits._replace(needs_log_probs=True))


def _with_log_probs(
    recording: Recording, kind: str, maker: Any, max_length: int
) -> Iterator[RecordedSample]:
    starts = range(0, len(recording), _AT_ONCE)
    for start in tqdm(starts, "Log-probs of the initial policy", unit=f" x {_AT_ONCE} groups"):
        groups = {
            ticket: [sample for sample in recording.read(ticket) if sample is not None]
            for ticket in range(start, min(start + _AT_ONCE, len(recording)))
        }
        samples = [sample for group in groups.values() for sample in group]
        experiences = [to_rollout(sample, max_length).experience for sample in samples]
        told = iter(maker.policy_log_probs(experiences))
        for ticket, group in groups.items():
            found = [numpy.concatenate([[0.0], next(told)]) for _ in group]
            if kind == "uniform":
                found = uniform(found, [sample.action_mask for sample in group])
            for place, (sample, log_probs) in enumerate(zip(group, found, strict=True)):
                tokens = int(sample.action_mask.sum())
                yield dataclasses.replace(
                    sample,
                    ticket=ticket,
                    sample=place,
                    samples=len(group),
                    log_probs=log_probs.astype(numpy.float32),
                    token_versions=((0, tokens),) if kind == "initial" else (),
                )


def uniform(log_probs: Sequence[Any], masks: Sequence[Any]) -> list[Any]:
    """Log-probs that give every response to a prompt the same probability: the geometric mean of
    what the initial policy gives them, so that W starts around 1. Within a response all tokens
    have the same.

    Args:
        log_probs: (T,) each, of the initial policy.
        masks: (T,) bool each, the sampled tokens.
    """
    totals = [values[mask].sum() for values, mask in zip(log_probs, masks, strict=True)]
    mean = float(numpy.mean(totals))
    return [numpy.where(mask, mean / max(mask.sum(), 1), 0.0) for mask in masks]
