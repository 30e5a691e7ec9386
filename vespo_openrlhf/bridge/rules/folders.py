"""A run that starts anew must not mix its records and checkpoints with those of another."""

from __future__ import annotations

from pathlib import Path

from vespo_openrlhf.bridge.roles import Flags
from vespo_openrlhf.bridge.run.checkpoints import Checkpoints
from vespo_openrlhf.bridge.run.folder import RunFolder


def check_run_folder(flags: Flags) -> None:
    """A run that starts anew must not mix its records and checkpoints with those of another."""
    if flags["ckpt.load_enable"]:
        return
    saves = flags["ckpt.save_steps"] > 0 and not flags["ckpt.disable_ds"]
    tag = Checkpoints(Path(flags["ckpt.path"])).newest()
    run = RunFolder(Path(flags["run.dir"])) if flags["run.dir"] is not None else None
    if run and run.holds_records:
        if run.finished_episodes():
            advice = "finished; choose another folder"
        elif tag:
            advice = f"add --ckpt.load_enable to go on with it from {tag}, or choose another folder"
        else:
            advice = (
                "without a checkpoint to go on from; choose another folder (with "
                "--ckpt.load_enable it starts anew here, and the old records go to superseded/)"
            )
        raise ValueError(f"--run.dir {run.path} holds a run already: {advice}")
    if tag and saves:
        raise ValueError(
            f"--ckpt.path {flags['ckpt.path']} holds the checkpoints of a run already, the newest "
            f"{tag}: add --ckpt.load_enable to go on with it, or choose another folder"
        )
