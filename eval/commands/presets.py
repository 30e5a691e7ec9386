"""Protocols of others by name: `vespo eval run --preset NAME`.

A preset replaces defaults. What stands on the command line wins over it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """How somebody evaluates.

    Attributes:
        defaults: of `eval.commands.flags`, by their names in Python.
        templates: prompt templates by benchmark, where it is not the benchmark's own.
        source: where it is written down.
    """

    defaults: Mapping[str, Any]
    templates: Mapping[str, str]
    source: str


_VERL = ("aime24", "aime25", "math500", "minerva", "olympiadbench", "beyondaime")

PRESETS: Mapping[str, Preset] = {
    "vespo": Preset(
        defaults={
            "benchmarks": "aime25:32,aime24:32,amc23:16,math500:4",
            "temperature": 1.0,
            "top_p": 0.7,
            "max_tokens": 15360,
        },
        templates={**dict.fromkeys(_VERL, "verl"), "amc23": "qwen_space"},
        source="sampling and prompts of github.com/FloyedShen/VESPO (recipe/vespo, validation), "
        "repeats of arXiv 2602.10693, appendix D",
    ),
}


def parse_with_preset(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parse options of which `--preset` is one, with its defaults in the place of the parser's."""
    finder = argparse.ArgumentParser(prog=parser.prog, add_help=False)
    finder.add_argument("--preset", choices=PRESETS)
    name = finder.parse_known_args(argv)[0].preset
    if name is not None:
        parser.set_defaults(**PRESETS[name].defaults)
    return parser.parse_args(argv)
