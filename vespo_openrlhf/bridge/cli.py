"""The command line: OpenRLHF's parser with our flags in it, our seams, then OpenRLHF's `train`.

OpenRLHF builds its parser under `if __name__ == "__main__"`, so its module is run as such, with
`ArgumentParser.parse_args` extended for that one run. Its own validation stays in force.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import errno
import importlib.util
import re
import runpy
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vespo_openrlhf import config, versions
from vespo_openrlhf.bridge import resume, seams
from vespo_openrlhf.bridge.errors import StoppedError
from vespo_openrlhf.bridge.flags import check, resolve
from vespo_openrlhf.bridge.rules.loss import UPSTREAM_DEFAULTS
from vespo_openrlhf.bridge.run.checkpoints import CheckpointError
from vespo_openrlhf.bridge.run.folder import RunFolder
from vespo_openrlhf.losses.inputs import LOSS_AGG_MODES
from vespo_openrlhf.losses.registry import POLICY_LOSS_NAMES
from vespo_openrlhf.redact import hide
from vespo_openrlhf.replaced import replaced
from vespo_openrlhf.scheduling import PolicyError

if TYPE_CHECKING:
    from vespo_openrlhf.bridge.plug import Plugs

PROGRAM = "python -m vespo_openrlhf.train"
_UPSTREAM = "openrlhf.cli.train_ppo_ray"
#: Of OpenRLHF's flags that have none, or do another thing here.
_HELP = {
    "ckpt.save_steps": "save a checkpoint every so many rollout batches (default: never)",
    "ckpt.load_enable": "go on from the newest whole checkpoint, with the flags it was written "
    "with; start from the beginning where there is none yet. A finished run is left as it is",
    "ckpt.max_num": "checkpoints to keep (default: 3): the oldest are deleted once a newer one is "
    "saved, so leave room for one more. The best evaluation's does not count",
    "ckpt.max_mem": "GiB of all checkpoints, above which the oldest are deleted; never the newest",
    "actor.eps_clip": "clip of the ratio on both sides (default: what the loss was published with)",
    "actor.eps_clip_low_high": "the same, below and above 1",
    "actor.dual_clip": "bound on the ratio where the advantage is negative, above 1, inf for none "
    "(default: 3 for ppo)",
    "actor.loss_agg_mode": "what the loss of a token is divided by: the tokens of the update "
    "(token-mean), or the sequences and the tokens of its own (seq-mean-token-mean) or the "
    "sequences alone (seq-mean-token-sum) (default: what the loss was published with, as a rule "
    "token-mean)",
}


class UsageError(ValueError):
    """The user can mend this; shown as one message without a traceback."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit status: 0, 1 where a run stopped before its end or lost much of its
    data, or 2 for what the user can mend before Ray starts."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        seams.check_installation()
        # Not before the line above: these import openrlhf and vllm.
        from vespo_openrlhf.bridge import plug

        seams.check_seams()
        with (
            contextlib.ExitStack() as held,
            plug.in_place() as plugs,
            _extended_parser(held, plugs) as started,
            replaced(sys, argv=[_UPSTREAM, *arguments]),
        ):
            runpy.run_module(_UPSTREAM, run_name="__main__")
            for run, episodes in started:
                run.finish(episodes)
    # Through Ray, which puts a trace before it.
    except (CheckpointError, PolicyError, StoppedError) as error:
        print(f"{PROGRAM}: error: {getattr(error, 'cause', error)}", file=sys.stderr)
        return 1
    except OSError as error:
        if getattr(error, "cause", error).errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(
            f"{PROGRAM}: error: {getattr(error, 'cause', error)}. Make room, and start the same "
            "command again with --ckpt.load_enable",
            file=sys.stderr,
        )
        return 1
    except resume.Finished as finished:
        print(f"[vespo] {finished}", flush=True)
    except (UsageError, seams.SeamError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except AssertionError as refused:  # OpenRLHF's validation, before it starts Ray
        spec = importlib.util.find_spec(_UPSTREAM)
        where = traceback.extract_tb(refused.__traceback__)[-1].filename
        if spec is None or where != spec.origin:
            raise
        print(f"{PROGRAM}: error: OpenRLHF refuses these flags: {refused}", file=sys.stderr)
        return 2
    return 0


@contextlib.contextmanager
def _extended_parser(
    held: contextlib.ExitStack, plugs: Plugs
) -> Iterator[list[tuple[RunFolder, int]]]:
    """While OpenRLHF's module runs, its first `parse_args` is ours.

    Args:
        held: takes the lock of the run folder.
        plugs: are told what the flags say.

    Yields:
        The run folder, where there is one, and the passes over the data to train, once parsed.
    """
    started: list[tuple[RunFolder, int]] = []
    upstream = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        argparse.ArgumentParser.parse_args = upstream  # type: ignore[method-assign]
        extend_parser(parser)
        namespace = upstream(parser, *args, **kwargs)
        flags = vars(namespace)
        run = _prepare(flags, held, plugs)
        if run:
            started.append((run, flags["train.num_episodes"]))
        return namespace

    with replaced(argparse.ArgumentParser, parse_args=parse_args):
        yield started


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
    for action in parser._actions:
        action.help = _HELP.get(action.dest, action.help)
        if action.dest in UPSTREAM_DEFAULTS:
            action.default = None
        if action.dest == "actor.loss_agg_mode":
            action.choices = LOSS_AGG_MODES
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


def _prepare(flags: dict[str, Any], held: contextlib.ExitStack, plugs: Plugs) -> RunFolder | None:
    """All that happens between parsing and OpenRLHF: the flags, checks, the run folder and what is
    in it. Edits `flags`; returns the run folder, which `held` holds."""
    run = None
    try:
        notes = resolve(flags)
        check(flags)
        if flags["run.dir"] is not None:
            run = RunFolder(Path(flags["run.dir"]))
            held.enter_context(run.locked())
        notes += resume.prepare(flags, run)
    except ValueError as error:
        raise UsageError(str(error)) from error
    for note in notes:
        print(f"[vespo] {note}", flush=True)
    if run:
        run.begin(flags, versions.installed())
    # OpenRLHF prints all flags, and wandb's config holds them.
    flags |= {name: hide(value, name) for name, value in flags.items()}
    plugs.take(flags)
    return run
