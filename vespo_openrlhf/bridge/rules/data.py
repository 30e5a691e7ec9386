"""The prompts' parts and their shares."""

from __future__ import annotations

from vespo_openrlhf.bridge.roles import Flags


def check_mixture(flags: Flags) -> None:
    """One probability for each part of the data."""
    shares, parts = flags["data.prompt_probs"], flags["data.prompt_dataset"]
    if shares is None or not parts:
        return
    try:
        values = [float(share) for share in shares.split(",")]
    except ValueError:
        values = []
    if len(values) != len(parts.split(",")) or abs(sum(values) - 1) > 1e-6:
        raise ValueError(
            f"--data.prompt_probs {shares}: give one number for each of the "
            f"{len(parts.split(','))} parts of --data.prompt_dataset, with commas, 1 in all"
        )
