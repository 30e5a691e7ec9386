"""Files that are there whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A draft beside `path` to write to, which takes its place at the end; its folder is made.

    Two processes may write the same file at once: each has a draft of its own. It is on disk
    before it is renamed, so that a machine that loses power leaves the old file or the new one.
    An error leaves the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield draft
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write a text so, as UTF-8.

    Args:
        errors: what becomes of half a surrogate pair, which a model can emit and is no character:
            see `str.encode`.

    Raises:
        UnicodeEncodeError: there is one, and `errors` is "strict".
    """
    with written_whole(path) as draft:
        draft.write_text(text, encoding="utf-8", errors=errors, newline="\n")
