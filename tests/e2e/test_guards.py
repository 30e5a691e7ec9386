"""A reward that is not a number, on the real stack: the run stops, or leaves those updates out."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent


def test_a_broken_update_is_stopped_before_the_step_and_its_batch_saved(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    arguments = command(tmp_path, reward__remote_url=HERE / "nan_reward.py", data__max_samples=64)
    run = subprocess.run(arguments, env=os.environ, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    output = run.stdout + run.stderr
    assert "is not finite; its batch is in" in output
    assert "--vespo.on_nonfinite skip" in output
    (saved,) = (tmp_path / "checkpoints").glob("nonfinite_update*_rank0.pt")
    (batch,) = torch.load(saved, weights_only=False)["batches"]
    broken = batch["advantages"].isnan().any(-1)
    assert [("\n9" in prompt) for prompt in batch["prompts"]] == broken.tolist()


def test_a_run_that_skips_broken_updates_ends_well(train: Callable[..., Any]) -> None:
    run = train(
        reward__remote_url=HERE / "nan_reward.py",
        vespo__on_nonfinite="skip",
        data__max_samples=48,
    )
    assert run.metrics[-1]["vespo/num_skipped_updates"] > 0
    weights = load_file(run.folder / "model" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())
