"""Our own options, beside OpenRLHF's: their flags, their defaults and their help.

Each group is a frozen dataclass that validates itself; its fields become flags
`--{group}.{field}`, dotted as OpenRLHF's are.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vespo_openrlhf.losses.kernel import KernelCoefficients


@dataclass(frozen=True)
class LossOptions:
    """What every policy loss of ours may be given, beside options of its own."""

    anchor: str = "rollout"
    length_normalisation: str = "none"
    recompute_old_log_probs: bool = False
    on_nonfinite: str = "stop"


@dataclass(frozen=True)
class RunOptions:
    """Where a run leaves what it made."""

    dir: str | None = None


@dataclass(frozen=True)
class FlagGroup:
    """A dataclass of options and how `--help` presents it.

    `help` has an entry for every field, `choices` one for every field that takes but a few values.
    """

    prefix: str
    title: str
    options: type
    help: Mapping[str, str]
    choices: Mapping[str, Sequence[str]] = field(default_factory=dict)


GROUPS = (
    FlagGroup(
        "vespo",
        "VESPO: phi(W) = W^c1 exp(c2 (1 - W)), with --actor.policy_loss_type vespo",
        KernelCoefficients,
        {
            "c1_pos": "power of W where the advantage is >= 0; at least 1",
            "c2_pos": "decay in W where the advantage is >= 0; above 0",
            "c1_neg": "power of W where the advantage is < 0; at least 1",
            "c2_neg": "decay in W where the advantage is < 0; above 0",
        },
    ),
    FlagGroup(
        "vespo",
        "policy losses: VESPO and its rivals",
        LossOptions,
        {
            "anchor": "what the importance weight starts from: rollout (the log-probs the engine "
            "sampled with) or old (the trainer's recomputation, which knows nothing of the lag)",
            "length_normalisation": "ablation of VESPO: log W divided by 1 (none), the square root "
            "of the length (sqrt) or the length (full)",
            "recompute_old_log_probs": "recompute old_log_probs although the loss does not read "
            "them: one more forward pass, for the metrics that tell lag from engine mismatch",
            "on_nonfinite": "a loss or gradient norm that is not finite: stop the run, or skip the "
            "update; either way its batch is saved in the checkpoint folder",
        },
        {
            "anchor": ("rollout", "old"),
            "length_normalisation": ("none", "sqrt", "full"),
            "on_nonfinite": ("stop", "skip"),
        },
    ),
    FlagGroup(
        "run",
        "run folder",
        RunOptions,
        {
            "dir": "a folder for all that the run leaves: the resolved flags (config.json), "
            "metrics.jsonl, tensorboard/, checkpoints/ and the final model/, unless OpenRLHF's "
            "own flag for one of them says otherwise"
        },
    ),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add every option of ours to `parser`, in titled groups at the end."""
    for group in GROUPS:
        section = parser.add_argument_group(group.title)
        for spec in dataclasses.fields(group.options):
            flag, text = f"--{group.prefix}.{spec.name}", group.help[spec.name]
            if spec.default is False:
                section.add_argument(flag, action="store_true", help=text)
                continue
            choices = group.choices.get(spec.name)
            section.add_argument(
                flag,
                type=float if isinstance(spec.default, float) else str,
                default=spec.default,
                choices=choices,
                metavar=None if choices else spec.name.upper(),
                help=text if spec.default is None else f"{text} (default: {spec.default})",
            )


def kernel_options(flags: Mapping[str, Any]) -> dict[str, float]:
    """The kernel's coefficients from parsed flags (dotted names), checked.

    Raises:
        ValueError: one is out of range; the message names the flag.
    """
    names = [spec.name for spec in dataclasses.fields(KernelCoefficients)]
    coefficients = KernelCoefficients(**{name: flags[f"vespo.{name}"] for name in names})
    return dataclasses.asdict(coefficients)
