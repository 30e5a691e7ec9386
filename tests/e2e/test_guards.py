"""What is not finite, on the real stack: updates that are stopped or left out, and rewards."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
# The first update blows the weights up, and every later one of the batch is not finite.
EXPLODES = {"actor__adam__lr": "1e30", "data__max_samples": 16}


def test_a_broken_update_is_stopped_before_the_step_and_its_batch_saved(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    arguments = command(tmp_path, **EXPLODES)
    run = subprocess.run(arguments, env=os.environ, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    output = run.stdout + run.stderr
    assert "is not finite; its batch is in" in output
    assert "--vespo.on_nonfinite skip" in output
    (saved,) = (tmp_path / "checkpoints").glob("nonfinite_update*_rank0.pt")
    (batch,) = torch.load(saved, weights_only=False)["batches"]
    assert len(batch["prompts"]) == 16


def test_a_run_that_skips_broken_updates_ends_well(train: Callable[..., Any]) -> None:
    run = train(vespo__on_nonfinite="skip", **EXPLODES)
    assert run.metrics[-1]["vespo/num_skipped_updates"] == 3
    weights = load_file(run.folder / "model" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_prompts_whose_reward_is_no_number_are_given_up_by_name_and_not_in_silence(
    command: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Seven of these 48: more than may be given up in a run that ends well."""
    arguments = command(tmp_path, reward__remote_url=HERE / "nan_reward.py", data__max_samples=48)
    run = subprocess.run(arguments, env=os.environ, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "7 prompts were given up and 0 filtered out, 41 trained" in run.stdout + run.stderr
    assert (tmp_path / "model" / "model.safetensors").is_file()
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").open()]
    (account,) = json.loads((tmp_path / "prompts.json").read_text())
    abandoned = {int(name.partition(":")[0]) for name in account["abandoned"]}
    assert 0 < len(abandoned) < 48
    assert abandoned | {group["row"] for group in samples} == set(range(48))
    assert account["trained"] == len(samples) == 48 - len(abandoned)
    assert all(reward is not None for group in samples for reward in group["rewards"])
