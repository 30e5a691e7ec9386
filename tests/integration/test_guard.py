"""The guard before the optimizer step, on DeepSpeed's own engine with and without ZeRO."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

# Stage 0 in float32 is the CPU stack's; the others are what runs on GPUs.
SETUPS = ("0-fp32", "0-bf16", "1-bf16", "2-bf16", "3-bf16")


def test_a_broken_update_is_not_made_whatever_keeps_the_gradients(
    run_on_deepspeed: Callable[..., str], tmp_path: Path
) -> None:
    output = run_on_deepspeed("deepspeed_guard.py", tmp_path, *SETUPS)
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert tuple(line["setup"] for line in lines) == SETUPS
    for line in lines:
        *skipped, stopped = line["results"]
        for update in skipped:
            whole = update["broken"] == ""
            assert (update["made"], update["moved"]) == (whole, whole), line
            assert update["finite"], line
        assert "gradient norm of update 5 is not finite" in stopped["error"]
        assert not stopped["moved"], line
    assert len(list(tmp_path.glob("nonfinite_update*_rank0.pt"))) == 3  # of updates 1, 3 and 5


def test_a_scaled_step_is_that_part_of_one_whatever_keeps_the_weights(
    run_on_deepspeed: Callable[..., str],
) -> None:
    """Learning rates 1, 1/2, 1/3 by the schedule, times 1, 1/4, 1/2; bf16 rounds the moves."""
    output = run_on_deepspeed("deepspeed_learning_rate.py", *SETUPS)
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert tuple(line["setup"] for line in lines) == SETUPS
    for line in lines:
        assert line["parts"] == pytest.approx([1, 1 / 4, 1 / 2], rel=0.05), line
        assert line["rates"] == pytest.approx([1 / 2, 1 / 3, 1 / 4]), line
