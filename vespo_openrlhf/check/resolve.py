"""From flags to a resolved configuration, by the installed OpenRLHF's own code.

OpenRLHF builds its parser, and validates what was parsed, under `if __name__ == "__main__"` of a
module whose imports take half a minute and want a GPU's libraries. That part of the installed
source is run here alone, with its heavy imports left out and its `train` replaced: which flags
exist, and what they may be, has one truth.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib.util
import io
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vespo_openrlhf.bridge import cli
from vespo_openrlhf.bridge.flags import complete, flatten
from vespo_openrlhf.check.flags import check_options
from vespo_openrlhf.replaced import replaced

_HEAVY = ("openrlhf", "ray")


class RefusedError(ValueError):
    """What OpenRLHF's validation refuses, in our words: every fault that our rules find."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = tuple(faults)


@dataclass(frozen=True)
class Resolved:
    """A recipe after parsing and OpenRLHF's own validation.

    Attributes:
        flags: every flag by its dotted name.
        parsed: the same before OpenRLHF's validation, which fills some in.
        given: names of the flags whose value is not the default.
        warnings: lines that OpenRLHF's validation printed.
    """

    flags: dict[str, Any]
    parsed: dict[str, Any]
    given: tuple[str, ...]
    warnings: tuple[str, ...]


def resolve(arguments: Sequence[str]) -> Resolved:
    """Parse and validate `arguments` as `vespo_openrlhf.train` would.

    Raises:
        ValueError: an unknown flag (the nearest is named), a value that does not parse, or what
            OpenRLHF's validation refuses; as `RefusedError` where rules of ours refuse it too.
    """
    resolved: list[SimpleNamespace] = []
    given: list[str] = []
    parsed: dict[str, Any] = {}
    printed = io.StringIO()
    with _our_parser(given, parsed), contextlib.redirect_stdout(printed):
        try:
            _execute(arguments, resolved.append)
        except ValueError:  # of the parser: says what to write instead
            raise
        except Exception as refused:
            if faults := [str(fault) for fault in check_options(copy.deepcopy(parsed))]:
                raise RefusedError(faults) from refused
            # Assertions as a rule, but it also stumbles over numbers that are 0 or missing.
            reason = str(refused) if isinstance(refused, AssertionError) else repr(refused)
            raise ValueError(f"OpenRLHF refuses these flags: {reason}") from refused
    flags = flatten(resolved[0])
    if isinstance(flags["reward.remote_url"], list):  # split in validation, after ours would look
        flags["reward.remote_url"] = ",".join(flags["reward.remote_url"])
    warnings = tuple(line for line in printed.getvalue().splitlines() if line.strip())
    return Resolved(flags, parsed, tuple(given), warnings)


class _Built(Exception):  # noqa: N818 - none
    """There is a parser, which is all that was asked for."""


def build_parser() -> argparse.ArgumentParser:
    """OpenRLHF's parser as training extends it: every flag, with its default.

    What it refuses it raises as ValueError.
    """
    found: list[argparse.ArgumentParser] = []

    def parse_args(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        cli.extend_parser(parser)
        found.append(parser)
        raise _Built

    with replaced(argparse.ArgumentParser, parse_args=parse_args), contextlib.suppress(_Built):
        _execute([], print)
    return found[0]


def _execute(arguments: Sequence[str], train: Callable[[SimpleNamespace], object]) -> None:
    """What OpenRLHF does before it trains, and then `train`."""
    package = _package_folder()
    source = package / "cli" / "train_ppo_ray.py"
    names = {
        "__name__": "__main__",
        "hierarchize": runpy.run_path(str(package / "utils" / "config.py"))["hierarchize"],
        "train": train,
    }
    with replaced(sys, argv=[str(source), *arguments]):
        exec(compile(_light(source), str(source), "exec"), names)


@contextlib.contextmanager
def _our_parser(given: list[str], flags: dict[str, Any]) -> Iterator[None]:
    """As `bridge.cli` extends OpenRLHF's parser for training, without what it does after."""
    upstream = argparse.ArgumentParser.parse_args

    def parse_args(parser: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        cli.extend_parser(parser)
        namespace = upstream(parser, *args, **kwargs)
        parsed = vars(namespace)
        given.extend(name for name in parsed if parsed[name] != parser.get_default(name))
        flags.update(copy.deepcopy(parsed))
        # As training does, before OpenRLHF fills in a clip that is not the loss's.
        complete(parsed)
        return namespace

    with replaced(argparse.ArgumentParser, parse_args=parse_args):
        yield


def _package_folder() -> Path:
    spec = importlib.util.find_spec("openrlhf")
    if spec is None or spec.origin is None:
        raise ValueError(
            "OpenRLHF is not installed, and it alone knows its flags: run scripts/install.sh"
        )
    return Path(spec.origin).parent


def _light(source: Path) -> ast.Module:
    """The module without its heavy imports and without the `train` it defines."""
    tree = ast.parse(source.read_text())
    return ast.fix_missing_locations(_WithoutHeavyImports().visit(tree))


class _WithoutHeavyImports(ast.NodeTransformer):
    def visit_Import(self, node: ast.Import) -> ast.Import | None:
        return None if any(alias.name.split(".")[0] in _HEAVY for alias in node.names) else node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.ImportFrom | None:
        return None if (node.module or "").split(".")[0] in _HEAVY else node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef | None:
        return None if node.name == "train" else node
