"""What is not finite, on the real stack: updates that are stopped or left out, and rewards."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent


def test_a_broken_update_is_stopped_before_the_step_and_its_batch_saved(
    command: Callable[..., list[str]], tmp_path: Path, recording: Path
) -> None:
    """The first update blows the weights up, and every later one of the batch is not finite."""
    arguments = command(
        tmp_path, offline__data=recording, offline__behaviour="initial", actor__adam__lr="1e30"
    )
    run = subprocess.run(arguments, env=os.environ, capture_output=True, text=True, check=False)
    assert run.returncode != 0
    output = run.stdout + run.stderr
    assert "is not finite; its batch is in" in output
    assert "--vespo.on_nonfinite skip" in output
    (saved,) = (tmp_path / "checkpoints").glob("nonfinite_update*_rank0.pt")
    (batch,) = torch.load(saved, weights_only=False)["batches"]
    assert len(batch["prompts"]) == 16


@pytest.fixture(scope="module")
def not_finite(
    command: Callable[..., list[str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """The folder of a run, and what it said. Its updates 2, 3 and 6 are not finite and left out,
    and the rewards of seven of its 48 prompts are no numbers: more than may be given up in a run
    that ends well."""
    folder = tmp_path_factory.mktemp("not_finite")
    arguments = command(
        folder,
        actor__policy_loss_type=f"{HERE / 'nan_loss.py'}:at_times_nan",
        vespo__on_nonfinite="skip",
        reward__remote_url=HERE / "nan_reward.py",
        data__max_samples=48,
    )
    run = subprocess.run(arguments, env=os.environ, capture_output=True, text=True, check=False)
    assert run.returncode == 1, (run.stdout + run.stderr)[-6000:]
    return folder, run.stdout + run.stderr


def test_a_run_that_skips_broken_updates_goes_on(not_finite: tuple[Path, str]) -> None:
    folder, _ = not_finite
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    skipped = [line["at_times_nan/num_skipped_updates"] for line in metrics]
    assert skipped == [2, 1, 0]
    weights = load_file(folder / "model" / "model.safetensors")
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_prompts_whose_reward_is_no_number_are_given_up_by_name_and_not_in_silence(
    not_finite: tuple[Path, str],
) -> None:
    folder, output = not_finite
    (reason,) = re.findall(r"vespo_openrlhf\.train: error: (.*)", output)  # no other, as skips
    assert reason.startswith("7 prompts were given up and 0 filtered out, 41 trained")
    assert (folder / "model" / "model.safetensors").is_file()
    samples = [json.loads(line) for line in (folder / "samples.jsonl").open()]
    (account,) = json.loads((folder / "prompts.json").read_text())
    abandoned = {int(name.partition(":")[0]) for name in account["abandoned"]}
    assert 0 < len(abandoned) < 48
    assert abandoned | {group["row"] for group in samples} == set(range(48))
    assert account["trained"] == len(samples) == 48 - len(abandoned)
    assert all(reward is not None for group in samples for reward in group["rewards"])
