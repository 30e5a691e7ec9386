"""What decides a build: data sizes, seed and warm start, checked as soon as they are given.

Standard library only, so that `--help` and a wrong setting need not wait for torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

# Raise it with any change to what the same settings build, so that old builds are replaced.
RECIPE = 2

# Tokens a response may take; a right solution takes at most 32, its end of sequence included.
MAX_RESPONSE_TOKENS = 40

# Tokens the model can take, prompt and response together; a problem needs 56 of them at most.
MAX_LENGTH = 256


@dataclass(frozen=True)
class WarmStart:
    """How the model is warmed up.

    Attributes:
        steps: optimizer steps.
        batch_size: demonstrations a step.
        peak_lr: AdamW learning rate at its highest, reached after a fifth of the steps.
        forget_share: share of demonstrations written by the student who forgets to carry.
    """

    steps: int = 660
    batch_size: int = 16
    peak_lr: float = 4e-3
    forget_share: float = 0.6

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError(
                f"the warm start needs at least one step and one demonstration a step, "
                f"not {self.steps} and {self.batch_size}"
            )
        if not 0 <= self.forget_share <= 1:
            raise ValueError(
                f"the share of forgetful demonstrations must lie in 0..1, not {self.forget_share}"
            )
        if not self.peak_lr > 0:
            raise ValueError(f"the learning rate must be positive, not {self.peak_lr}")


@dataclass(frozen=True)
class Settings:
    """All that decides what is built.

    Attributes:
        seed: of problems and demonstrations.
        train_problems: rows of `train.jsonl`.
        heldout_problems: rows of `heldout.jsonl`.
        warm_start: how the model is warmed up.
    """

    seed: int = 0
    train_problems: int = 4096
    heldout_problems: int = 256
    warm_start: WarmStart = field(default_factory=WarmStart)

    def __post_init__(self) -> None:
        if self.train_problems < 1 or self.heldout_problems < 1:
            raise ValueError(
                f"both splits need at least one problem, not {self.train_problems} and "
                f"{self.heldout_problems}"
            )

    def as_manifest(self) -> dict[str, Any]:
        """The settings as they stand in the manifest, the recipe's number among them."""
        return {"recipe": RECIPE, **asdict(self)}
