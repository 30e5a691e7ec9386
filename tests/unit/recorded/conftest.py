"""Recorded samples as the tests want them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest

from vespo_openrlhf.recorded.schema import RecordedSample


@pytest.fixture
def make_sample() -> Callable[..., RecordedSample]:
    """`make_sample(ticket, sample, **changes)`: eight tokens, of which the last five were sampled;
    the first is ticket * 10 + sample."""

    def make(ticket: int = 0, sample: int = 0, **changes: Any) -> RecordedSample:
        values: dict[str, Any] = {
            "samples": 4,
            "prompt_id": f"{ticket}:abc",
            "tokens": numpy.array([ticket * 10 + sample, *range(1, 8)], dtype=numpy.int32),
            "action_mask": numpy.arange(8) >= 3,
            "log_probs": -numpy.arange(8, dtype=numpy.float32) / 8,
            "reward": float(sample % 2),
            "token_versions": ((2, 3), (3, 2)),
        } | changes
        return RecordedSample(ticket, sample, **values)

    return make
