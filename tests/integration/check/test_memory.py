"""The estimate of model states against what the real DeepSpeed holds, on two ranks."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from vespo_openrlhf.check.shape import ModelShape
from vespo_openrlhf.check.states import training_states

RANKS = 2


@pytest.fixture(scope="module")
def measured(run_on_deepspeed: Callable[..., str]) -> list[dict]:
    output = run_on_deepspeed("check/deepspeed_states.py", ranks=RANKS)
    (line,) = (line for line in output.splitlines() if line.startswith("MEASURED "))
    return json.loads(line.removeprefix("MEASURED "))


def test_states_are_estimated_within_15_percent(measured: list[dict]) -> None:
    assert len({run["model"] for run in measured}) == 3
    assert {run["zero_stage"] for run in measured} == {0, 2, 3}
    for run in measured:
        shape = ModelShape.from_config(run["config"])
        adapters = shape.adapter_parameters(run["rank"])
        estimate = training_states(
            shape.parameters + adapters,
            trained=adapters or None,
            zero_stage=run["zero_stage"],
            shards=RANKS,
            dtype=run["dtype"],
            gradient_dtype=run["gradient_dtype"],
        )
        for part, size in run["bytes"].items():
            estimated = vars(estimate)[part]
            print(f"ZeRO-{run['zero_stage']} {run['model']} {part}: {size}, {estimated / size:.4f}")
            assert estimated == pytest.approx(size, rel=0.15), (run["model"], part)
