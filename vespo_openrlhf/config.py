"""Our own options, beside OpenRLHF's: their flags, their defaults and their help.

Each group is a frozen dataclass that validates itself; its fields become flags
`--{group}.{field}`, dotted as OpenRLHF's are.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vespo_openrlhf.losses.kernel import KernelCoefficients


@dataclass(frozen=True)
class RunOptions:
    """Where a run leaves what it made."""

    dir: str | None = None


@dataclass(frozen=True)
class FlagGroup:
    """A dataclass of options and how `--help` presents it; `help` has an entry for every field."""

    prefix: str
    title: str
    options: type
    help: Mapping[str, str]


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
            shown = "" if spec.default is None else f" (default: {spec.default})"
            section.add_argument(
                f"--{group.prefix}.{spec.name}",
                type=float if isinstance(spec.default, float) else str,
                default=spec.default,
                metavar=spec.name.upper(),
                help=group.help[spec.name] + shown,
            )


def kernel_options(flags: Mapping[str, Any]) -> dict[str, float]:
    """The kernel's coefficients from parsed flags (dotted names), checked.

    Raises:
        ValueError: one is out of range; the message names the flag.
    """
    names = [spec.name for spec in dataclasses.fields(KernelCoefficients)]
    coefficients = KernelCoefficients(**{name: flags[f"vespo.{name}"] for name in names})
    return dataclasses.asdict(coefficients)
