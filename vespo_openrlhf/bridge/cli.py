"""The command line: OpenRLHF's parser with our flags in it, our seams, then OpenRLHF's `train`.

OpenRLHF builds its parser under `if __name__ == "__main__"`, so its module is run as such, with
`ArgumentParser.parse_args` extended for that one run. Its own validation stays in force.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import re
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

from vespo_openrlhf import config, cpu, versions
from vespo_openrlhf.bridge import seams, settings
from vespo_openrlhf.losses.registry import POLICY_LOSS_NAMES

PROGRAM = "python -m vespo_openrlhf.train"
CONFIG_FILE = "config.json"
VERSIONS_FILE = "versions.json"
_UPSTREAM = "openrlhf.cli.train_ppo_ray"


class UsageError(ValueError):
    """The user can mend this; shown as one message without a traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit status: 0, or 2 for what the user can mend before Ray starts."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        seams.check_installation()
        # Not before the line above: these import openrlhf and vllm.
        from vespo_openrlhf.bridge import plug

        seams.check_seams()
        with (
            plug.in_place(),
            _extended_parser(),
            mock.patch.object(sys, "argv", [_UPSTREAM, *arguments]),
        ):
            runpy.run_module(_UPSTREAM, run_name="__main__")
    except (UsageError, seams.SeamError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    return 0


@contextlib.contextmanager
def _extended_parser() -> Iterator[None]:
    """While OpenRLHF's module runs, its first `parse_args` is ours."""
    upstream = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        argparse.ArgumentParser.parse_args = upstream  # type: ignore[method-assign]
        extend_parser(parser)
        namespace = upstream(parser, *args, **kwargs)
        _prepare(vars(namespace))
        return namespace

    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args):
        yield


def extend_parser(parser: argparse.ArgumentParser) -> None:
    """Our flags, our loss names, and errors that fit on a screen."""
    parser.prog = PROGRAM
    parser.description = (
        "OpenRLHF's Ray PPO trainer with VESPO plugged in: every flag of OpenRLHF, and ours in "
        "groups of their own at the end."
    )
    parser.allow_abbrev = False  # a mistyped flag must not pass for the start of another
    try:
        config.add_flags(parser)
    except ValueError as wrong:
        raise UsageError(str(wrong)) from wrong
    flags = [option for action in parser._actions for option in action.option_strings]
    for action in parser._actions:
        if action.dest == "actor.policy_loss_type":
            action.choices = None  # ours to check, with more names than OpenRLHF has
            action.metavar = "LOSS"
            action.help = (
                f"the policy loss (default: ppo): {', '.join(POLICY_LOSS_NAMES)}; or your own as "
                "package.module:function or path/to/file.py:function. ppo and gspo are OpenRLHF's "
                "own with --vespo.anchor old"
            )

    def error(message: str) -> NoReturn:
        raise UsageError(f"{message}{_suggestion(message, flags)}; --help lists every flag")

    parser.error = error  # type: ignore[method-assign]


def _suggestion(message: str, flags: list[str]) -> str:
    unknown = re.findall(r"--[\w.]+", message) if message.startswith("unrecognized") else []
    close = [m for flag in unknown for m in difflib.get_close_matches(flag, flags, n=1)]
    return f" (did you mean {', '.join(close)}?)" if close else ""


def _prepare(flags: dict[str, Any]) -> None:
    """All that happens between parsing and OpenRLHF: settings, checks, Ray. Edits `flags`."""
    try:
        notes = settings.resolve(flags)
        settings.check(flags)
    except ValueError as error:
        raise UsageError(str(error)) from error
    for note in notes:
        print(f"[vespo] {note}", flush=True)
    if flags["run.dir"] is not None:
        folder = Path(flags["run.dir"])
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in ((CONFIG_FILE, flags), (VERSIONS_FILE, versions.installed())):
            text = json.dumps(content, indent=2, sort_keys=True, default=str)
            (folder / name).write_text(text + "\n")
    from vespo_openrlhf.bridge import placement  # imports openrlhf

    placement.choose(flags)
    if cpu.is_active():
        from vespo_openrlhf.bridge import plug

        plug.start_ray_on_cpu(flags)
