"""Files of JSON objects, one a line, to which a run appends.

Lines are appended in blocks, each on disk before the next. A line that a kill tore is passed over
when reading, and cut off before the next is written.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.files import numbered_json_lines

_BLOCK = 64


class Lines:
    """A file of JSON objects, one a line, that is only ever appended to in whole lines.

    Args:
        path: of the file; it need not be there.
        keys: what every object must have.
    """

    def __init__(self, path: Path, keys: Sequence[str] = ()) -> None:
        self.path = path
        self._keys = keys

    def read(self) -> Iterator[dict[str, Any]]:
        """The lines, from the first, one in memory at a time; the file is not touched.

        Raises:
            ValueError: a line that is no JSON object, or lacks one of the keys.
        """
        if not self.path.exists():
            return
        try:
            for number, row in numbered_json_lines(self.path):
                if lacking := [key for key in self._keys if key not in row]:
                    raise ValueError(f"{self.path}, line {number}, lacks {', '.join(lacking)}")
                yield row
        except ValueError as error:
            raise ValueError(
                f"{error}: mend or remove the line, or start anew with --fresh"
            ) from error

    def append(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows and wait until they are on disk.

        Raises:
            EvaluationError: the disk does not take them; the file ends where it did before.
        """
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        # Half a surrogate pair, which a model can emit, cannot be encoded; this makes it \ud83d,
        # which is JSON's own way to write it.
        block = text.encode(errors="backslashreplace")
        before: int | None = None
        try:
            before = self._cut_torn()
            self.path.parent.mkdir(exist_ok=True)
            with open(self.path, "ab") as file:
                file.write(block)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            if before is not None:
                with contextlib.suppress(OSError):
                    os.truncate(self.path, before)
            raise EvaluationError(f"{self.path} cannot be written: {error.strerror}") from error

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Put other rows in the place of all of them, at once; a block in memory at a time.

        Raises:
            EvaluationError: the disk does not take them; the old rows stay.
        """
        draft = Lines(self.path.with_name(f".{self.path.name}.tmp"))
        try:
            draft.path.unlink(missing_ok=True)
            draft.append([])  # also where there are no rows
            rest = iter(rows)
            while block := list(itertools.islice(rest, _BLOCK)):
                draft.append(block)
            draft.path.replace(self.path)
        finally:
            draft.path.unlink(missing_ok=True)

    def _cut_torn(self) -> int:
        """Cut off a last line without its end; the size of the file then."""
        if not self.path.exists():
            return 0
        with open(self.path, "rb+") as file:
            size = end = file.seek(0, os.SEEK_END)
            while end > 0:
                start = max(0, end - 65536)
                file.seek(start)
                newline = file.read(end - start).rfind(b"\n")
                if newline >= 0:
                    end = start + newline + 1
                    break
                end = start
            if end < size:
                file.truncate(end)
        return end
