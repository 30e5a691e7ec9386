"""Routing replay under the real DeepSpeed, on two ranks."""

from __future__ import annotations

import json
from collections.abc import Callable


def test_every_stage_trains_the_experts_that_are_given(
    run_on_deepspeed: Callable[..., str],
) -> None:
    output = run_on_deepspeed("deepspeed_replay.py", ranks=2)
    (line,) = (line for line in output.splitlines() if line.startswith("REPLAYED "))
    runs = json.loads(line.removeprefix("REPLAYED "))
    assert [run["stage"] for run in runs] == [0, 1, 2, 3]
    for run in runs:
        assert run["log_probs"] < 1e-5, run
        assert run["weights"] < 1e-5, run
