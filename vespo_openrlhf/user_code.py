"""A user's own Python, named on a command line: a loss, a reward, a benchmark, a policy.

Standard library only: the reward's worker processes and the losses load through it too.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import zlib
from pathlib import Path
from types import ModuleType
from typing import Any


def load(target: str, what: str) -> Any:
    """The object that "package.module:NAME" or "path/to/file.py:NAME" names.

    Args:
        target: where it stands.
        what: it is, or the flag that named it, for the errors.

    Raises:
        ValueError: it is not written so, there is no such module or file, it does not import, or
            there is no such name in it.
    """
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise ValueError(f"{what} {target}: expected package.module:NAME or path/to/file.py:NAME")
    if where.endswith(".py"):
        module = load_file(where, what)
    else:
        try:
            module = importlib.import_module(where)
        except ImportError as error:
            raise ValueError(f"{what} {target}: cannot import {where!r}: {error}") from error
    if not hasattr(module, name):
        raise ValueError(f"{what} {target}: there is no {name!r} in it")
    return getattr(module, name)


def load_file(path: str | Path, what: str) -> ModuleType:
    """A Python file as a module, executed anew at each call.

    Raises:
        ValueError: there is no such file, or it does not import.
    """
    file = Path(path)
    if not file.is_file():
        raise ValueError(f"{what} {path}: there is no such file")
    # Two files of one name are two modules.
    name = f"vespo_user_{file.stem}_{zlib.crc32(str(file.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{what} {path}: expected a Python file, *.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by its name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ValueError(f"{what} {path} does not import: {error!r}") from error
    return module
