"""OpenRLHF's prompt data set as the scheduler's ledger."""

from __future__ import annotations

import hashlib
from typing import Any

from vespo_openrlhf.scheduling import PromptLedger


def prompt_ledger(dataset: Any, args: Any) -> PromptLedger:
    """A ledger over the rows of a `PromptDataset`, shuffled by `--train.seed` in every episode.

    A prompt's name is its row and a digest of what it says, so that a resume on other data is
    noticed and a name in a log can be looked up.
    """
    names = []
    for row, (prompt, label) in enumerate(zip(dataset.prompts, dataset.labels, strict=True)):
        digest = hashlib.sha256(f"{prompt}\0{label}".encode()).hexdigest()[:8]
        names.append(f"{row}:{digest}")
    return PromptLedger(names, epochs=args.train.num_episodes, shuffle_seed=args.train.seed)
