"""The importers: NAME reads what the class in the file NAME.py here says.

So a new importer is one file, and no edit elsewhere.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil

from vespo_openrlhf.recorded.importing.imported import Importer


def importers() -> list[str]:
    """The importers of this folder."""
    return sorted(found.name for found in pkgutil.iter_modules(__path__))


def importer(name: str) -> type[Importer]:
    """The importer of that name.

    Raises:
        ValueError: there is none.
    """
    if name not in importers():
        near = difflib.get_close_matches(name, importers(), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"no importer {name!r}{hint}: there are {', '.join(importers())}")
    module = importlib.import_module(f"{__name__}.{name}")
    (own,) = (
        found
        for found in vars(module).values()
        if inspect.isclass(found)
        and issubclass(found, Importer)
        and found.__module__ == module.__name__
    )
    return own
