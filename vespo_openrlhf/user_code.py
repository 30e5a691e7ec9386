"""A user's own Python, by name: `package.module:name` or `path/to/file.py:name`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def load(target: str, what: str) -> Any:
    """What `target` names.

    Args:
        target: "package.module:name" or "path/to/file.py:name".
        what: in the message, say "a scheduling policy".

    Raises:
        ValueError: there is no such module, file or name. An error of the user's code itself is
            raised as it is.
    """
    where, _, name = target.rpartition(":")
    if not where or not name:
        raise ValueError(f"{target}: {what} is named package.module:name or path/to/file.py:name")
    module = _file(target, Path(where)) if where.endswith(".py") else _module(target, where)
    if not hasattr(module, name):
        raise ValueError(f"{target}: {where} has no {name!r}")
    return getattr(module, name)


def _file(target: str, path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"{target}: there is no file {path.absolute()}")
    # Two files of one name are two modules.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    spec = importlib.util.spec_from_file_location(f"vespo_user_{path.stem}_{digest}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up by its name
    spec.loader.exec_module(module)
    return module


def _module(target: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(where)
    except ImportError as error:
        raise ValueError(f"{target}: cannot import {where!r}: {error}") from error
