"""Files that are there whole or not at all, and files of JSON objects, one a line."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


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


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file that a run appends to; see `numbered_json_lines`."""
    return [row for _, row in numbered_json_lines(path)]


def numbered_json_lines(
    path: Path, *, appended: bool = True
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number, from 1, and object of each line that is not empty, one in memory at a time.

    Args:
        appended: a last line without its end is passed over, as the file's writer has been killed
            in it, or is at it. False: it is a line like any other, as in a file of a user's.

    Raises:
        ValueError: a line that is no JSON object.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip() or (appended and not line.endswith(b"\n")):
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}, is not JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}, is no JSON object")
            yield number, row
