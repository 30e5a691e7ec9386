"""Groups of recorded samples, read when they are asked for.

All of a recording is looked at once, and an index of it is held: some 100 bytes a sample. After
that rows are read a row group at a time, and the last of these are kept, up to `_KEPT_BYTES`.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from tqdm import tqdm

from vespo_openrlhf.files import numbered_json_lines
from vespo_openrlhf.recorded.checks import Limits, problems
from vespo_openrlhf.recorded.schema import Origin, RecordedSample, from_table, read_origin

#: Of a run folder: its shards, and what it says of each group that it trained.
FOLDER = "recorded"
STAMPS_FILE = "samples.jsonl"
_KEPT_BYTES = 2**28


def find_shards(path: Path) -> list[Path]:
    """The shards of a run folder, of a folder of shards, or the one that `path` is.

    Raises:
        ValueError: there are none.
    """
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    found = [path] if path.is_file() else sorted(folder.glob("*.parquet"))
    if not found:
        raise ValueError(
            f"{path} holds no recorded rollouts: expected *.parquet, or {FOLDER}/ of a run with "
            "--run.record"
        )
    return found


def read_common_origin(paths: Sequence[Path]) -> Origin:
    """What all shards have in common.

    Raises:
        ValueError: no shard, one that cannot be read, or shards that do not go together.
    """
    found: dict[Path, Origin] = {}
    for path in paths:
        for shard in find_shards(path):
            with readable(shard) as file:
                found[shard] = read_origin(file.schema_arrow, str(shard))
    (first, origin), *others = found.items()
    for shard, other in others:
        for name, what in (("tokenizer", "tokenizers"), ("temperature", "temperatures")):
            if getattr(other, name) != getattr(origin, name):
                raise ValueError(
                    f"{shard} and {first} are of different {what} ({getattr(other, name)} and "
                    f"{getattr(origin, name)}): train on one of them at a time"
                )
    return origin


@contextlib.contextmanager
def readable(path: Path, metadata: Any = None) -> Iterator[Any]:
    """A shard as a `pyarrow.parquet.ParquetFile`.

    Args:
        metadata: of the file, where it is known: of many row groups it takes long to read.

    Raises:
        ValueError: it is none, or cannot be read to its end; in the block, too.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, metadata=metadata) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(
            f"{path} cannot be read: it is cut short, damaged, or no Parquet file ({reason}). "
            "Copy it again, or move it out of the folder to go on without its samples"
        ) from error


@dataclass(frozen=True)
class _RowGroup:
    """Of a shard, whose metadata it keeps, with the number of its first row among all."""

    path: Path
    metadata: Any
    index: int
    first: int


class Recording:
    """Groups of recorded samples, in the order in which their run trained them; of a run that says
    nothing of that, as they were scored.

    Args:
        paths: run folders, folders of shards, or shards.
        size: samples of a group. A recorded group that has more is read as several. Where fewer
            than half of them can be trained on, it is left out.
        limits: what a sample is held to.
        trained_only: without the groups that their run never trained, where it says which it did.
            Otherwise they come last.

    Attributes:
        origin: of all shards.
        names: of the groups, all different.
        samples: in all.
        problems: samples that cannot be trained on, by `checks.REASONS`.
        left_out: of the others, those whose groups are left out.
        untrained: groups that their run never trained, where it says which it did.

    Raises:
        ValueError: no shard, one that cannot be read, shards that do not go together, or nothing
            that can be trained on.
    """

    def __init__(
        self, paths: Sequence[Path], size: int, limits: Limits, *, trained_only: bool = False
    ) -> None:
        self.origin = read_common_origin(paths)
        self.names: list[str] = []
        self.samples = 0
        self.problems: Counter[str] = Counter()
        self.left_out = 0
        self.untrained = 0
        self._trained_only = trained_only
        self._size = size
        self._limits = limits
        self._row_groups: list[_RowGroup] = []
        self._usable: list[Any] = []
        self._groups: list[Any] = []  # row numbers
        self._tables: OrderedDict[int, Any] = OrderedDict()  # of the row groups last read
        self._kept_bytes = 0
        for number, path in enumerate(paths):
            self._add(path, f"{number}:" if len(paths) > 1 else "")
        self._firsts = numpy.array([group.first for group in self._row_groups])
        self._is_usable = numpy.concatenate(self._usable)
        if not self.names:
            raise ValueError(
                f"{', '.join(map(str, paths))}: of {self.samples} samples none can be trained on, "
                f"in groups of {size} (--rollout.n_samples_per_prompt). {self.account()}"
            )

    def account(self) -> str:
        """What is there and what is left out, as one line."""
        found = [f"{count} {reason}" for reason, count in self.problems.most_common()]
        found += [f"{self.left_out} in groups of which too little is left"] * bool(self.left_out)
        told = f"{self.samples} recorded samples, {len(self.names)} groups to train"
        if self.untrained:
            there = "left out" if self._trained_only else "the last"
            told += f"; {self.untrained} groups that their run never trained are {there}"
        return f"{told}; samples left out: {', '.join(found) or 'none'}"

    @functools.cached_property
    def digest(self) -> str:
        """Of all that its shards hold."""
        total = hashlib.blake2b(digest_size=16)
        for path in dict.fromkeys(group.path for group in self._row_groups):
            with open(path, "rb") as file:
                while block := file.read(2**22):
                    total.update(block)
        return total.hexdigest()

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[list[RecordedSample | None]]:
        return map(self.read, range(len(self)))

    def read(self, group: int) -> list[RecordedSample | None]:
        """The samples of a group, None where there is none that can be trained on.

        Raises:
            ValueError: a shard is damaged, or gone.
        """
        found: list[RecordedSample | None] = [None] * self._size
        rows = self._groups[group]
        places = numpy.flatnonzero(self._is_usable[rows])
        of = numpy.searchsorted(self._firsts, rows, side="right") - 1
        for number in dict.fromkeys(of[places].tolist()):
            here = places[of[places] == number]
            table = self._table(number).take(rows[here] - self._row_groups[number].first)
            for place, sample in zip(here, from_table(table), strict=True):
                found[place] = sample
        return found

    def _add(self, path: Path, prefix: str) -> None:
        """Look at the shards of one path."""
        columns: dict[str, list[Any]] = {"ticket": [], "sample": [], "usable": []}
        prompts: list[Any] = []
        shards, first = find_shards(path), self.samples
        for shard in tqdm(shards, f"Looking at {path}", unit=" shards", disable=len(shards) < 8):
            with readable(shard) as file:
                for index in range(file.num_row_groups):
                    table = file.read_row_group(index)
                    self._row_groups.append(_RowGroup(shard, file.metadata, index, self.samples))
                    self.samples += len(table)
                    reasons = problems(table, self._limits)
                    self.problems.update(filter(None, reasons))
                    columns["usable"].append(numpy.array([not reason for reason in reasons]))
                    prompts += table.column("prompt_id").chunks
                    for name in ("ticket", "sample"):
                        columns[name].append(table.column(name).to_numpy())
        joined = {name: numpy.concatenate(parts) for name, parts in columns.items()}
        self._usable.append(joined["usable"])
        folder = shards[0].parent
        stamps = folder.parent / STAMPS_FILE if folder.name == FOLDER else None
        groups = self._group(joined, _trained_order(stamps))
        ids = _strings(prompts, [int(rows[0]) for _, _, rows in groups])
        self.names += [
            f"{prefix}{prompt}/{name}" for prompt, (_, name, _) in zip(ids, groups, strict=True)
        ]
        self._groups += [first + rows for _, _, rows in groups]

    def _group(self, columns: Any, order: dict[int, int]) -> list[tuple[tuple[int, int], str, Any]]:
        """(place, name, rows) of each group of these rows that is not left out, in their order."""
        rows = numpy.lexsort((columns["sample"], columns["ticket"]))
        tickets, starts = numpy.unique(columns["ticket"][rows], return_index=True)
        found: list[tuple[tuple[int, int], str, Any]] = []
        for ticket, group in zip(tickets.tolist(), numpy.split(rows, starts[1:]), strict=True):
            parts = numpy.array_split(group, -(-len(group) // self._size))
            for number, part in enumerate(parts):
                usable = int(columns["usable"][part].sum())
                if 2 * usable < self._size:
                    self.left_out += usable
                    continue
                self.untrained += bool(order) and ticket not in order
                if self._trained_only and order and ticket not in order:
                    continue
                # The last of its samples was written when the group was whole.
                place = order.get(ticket, len(order) + int(part.max()))
                name = f"{ticket}.{number}" if len(parts) > 1 else str(ticket)
                found.append(((place, number), name, part))
        return sorted(found, key=lambda each: each[0])

    def _table(self, number: int) -> Any:
        """Of a row group."""
        if number not in self._tables:
            place = self._row_groups[number]
            with readable(place.path, place.metadata) as file:
                table = file.read_row_group(place.index)
            self._tables[number] = table
            self._kept_bytes += table.nbytes
            while self._kept_bytes > _KEPT_BYTES and len(self._tables) > 1:
                _, oldest = self._tables.popitem(last=False)
                self._kept_bytes -= oldest.nbytes
        self._tables.move_to_end(number)
        return self._tables[number]


def _strings(chunks: Sequence[Any], places: Sequence[int]) -> list[str]:
    """Those at these places of a column."""
    import pyarrow as pa

    found: list[str] = pa.chunked_array(chunks).take(pa.array(places, pa.int64())).to_pylist()
    return found


def _trained_order(stamps: Path | None) -> dict[int, int]:
    """Place of each ticket among those that the run trained; empty where nobody says."""
    if stamps is None or not stamps.exists():
        return {}
    stamped = enumerate(numbered_json_lines(stamps))
    return {line["ticket"]: place for place, (_, line) in stamped}
