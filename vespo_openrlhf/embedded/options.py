"""What decides a build: data sizes, seed and warm start, checked as soon as they are given.

Standard library only, so that `--help` and a wrong option need not wait for torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vespo_openrlhf.options import Options, option

# Raise it with any change to what the same options build, so that old builds are replaced.
RECIPE = 2

# Tokens a response may take; a right solution takes at most 32, its end of sequence included.
MAX_RESPONSE_TOKENS = 40

# Tokens the model can take, prompt and response together; a problem needs 56 of them at most.
MAX_LENGTH = 256


@dataclass(frozen=True)
class WarmStart(Options):
    """How the model is warmed up."""

    steps: int = option(660, "supervised steps of the warm start", at_least=1)
    batch_size: int = option(16, "demonstrations a step", at_least=1)
    peak_lr: float = option(
        4e-3, "AdamW learning rate at its highest, reached after a fifth of the steps", above=0
    )
    forget_share: float = option(
        0.6,
        "share of demonstrations without the carry, 0 to 1; about what is left of 1 is the "
        "accuracy of the warm start when it samples",
        at_least=0,
        at_most=1,
    )


@dataclass(frozen=True)
class BuildOptions(Options):
    """All that decides what is built."""

    seed: int = option(0, "of problems and demonstrations")
    moe: bool = option(False, "a mixture of experts in the place of the dense model")
    small: bool = option(False, "half as wide, a student for the other to teach")
    agent: bool = option(False, "who is right asks a calculator, instead of working columns")
    train_problems: int = option(4096, "rows of train.jsonl", at_least=1)
    heldout_problems: int = option(256, "rows of heldout.jsonl", at_least=1)
    warm_start: WarmStart = option(factory=WarmStart, help="how the model is warmed up")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.moe and self.small:
            raise ValueError("small is for the dense model: leave moe or small out")

    def as_manifest(self) -> dict[str, Any]:
        """The options as they stand in the manifest, the recipe's number among them.

        Without a choice that is not made, as it was before there was one.
        """
        settings = {"recipe": RECIPE, **asdict(self)}
        for name in ("moe", "agent", "small"):
            if not settings[name]:
                del settings[name]
        return settings
