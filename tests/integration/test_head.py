"""The head under the real DeepSpeed, on two ranks: trained weights are those of OpenRLHF's way."""

from __future__ import annotations

import json
from collections.abc import Callable


def test_every_stage_trains_the_same_weights(run_on_deepspeed: Callable[..., str]) -> None:
    output = run_on_deepspeed("deepspeed_head.py", ranks=2)
    (line,) = (line for line in output.splitlines() if line.startswith("COMPARED "))
    runs = json.loads(line.removeprefix("COMPARED "))
    assert {(run["stage"], run["tied"]) for run in runs} == {
        (stage, tied) for stage in range(4) for tied in (False, True)
    }
    for run in runs:
        assert run["weights"] < 1e-4, run
        assert run["log_probs"] < 1e-3, run
    for tied in (False, True):  # and every stage the same, or a gradient was not shared
        norms = [run["norm"] for run in runs if run["tied"] is tied]
        assert max(norms) - min(norms) < 1e-3
