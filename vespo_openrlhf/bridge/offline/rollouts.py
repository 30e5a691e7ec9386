"""From a recorded sample to what an engine would have delivered."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy

from vespo_openrlhf.bridge.samples.response import to_experience
from vespo_openrlhf.bridge.wire import Rollout
from vespo_openrlhf.recorded.options import Rewarding
from vespo_openrlhf.recorded.schema import RecordedSample


def to_rollout(
    sample: RecordedSample, max_length: int, rewarding: Rewarding = "recorded"
) -> Rollout:
    """A sample that `recorded.checks` has no problem with, as the trainer takes it.

    Args:
        sample: as it was recorded.
        max_length: in tokens.
        rewarding: whose reward it has.
    """
    if rewarding == "model":
        sample = dataclasses.replace(sample, reward=None, logged={})
    elif rewarding == "none" and (sample.reward is None or not math.isfinite(sample.reward)):
        sample = dataclasses.replace(sample, reward=0.0)
    experience = to_experience(_response(sample), max_length)
    return Rollout(experience, (), turns=sample.turns, recorded_spans=sample.token_versions)


def _response(sample: RecordedSample) -> Mapping[str, Any]:
    """As OpenRLHF's executors answer."""
    logged = dict(sample.logged)
    edges = numpy.flatnonzero(numpy.diff(sample.action_mask, prepend=False, append=False))
    return {
        "prompt": sample.prompt,
        "label": sample.label,
        "observation_tokens": sample.tokens.tolist(),
        "action_ranges": list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)),
        "rollout_log_probs": None if sample.log_probs is None else sample.log_probs.tolist(),
        "reward": sample.reward,
        "scores": logged.pop("score", None),
        "extra_logs": logged,
        "truncated": sample.finish_reason == "length",
    }
