"""Groups of recorded samples, read when they are asked for.

Of a recording only an index is held: some 40 bytes a sample. Rows are read a row group at a time,
and the last of these are kept, up to `_KEPT_BYTES`.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from vespo_openrlhf.files import read_json_lines
from vespo_openrlhf.recorded.schema import (
    REWARD_MODEL,
    Origin,
    RecordedSample,
    from_table,
    read_origin,
)

#: Of a run folder: its shards, and what it says of each group that it trained.
FOLDER = "recorded"
STAMPS_FILE = "samples.jsonl"
_KEPT_BYTES = 2**28
#: What the index is made of.
_INDEX = ("ticket", "sample", "reward", "failure", "prompt_id")


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


@dataclass(frozen=True)
class _Shard:
    """Where its rows are: `first` is the number of its first one, `ends` those after the last of
    each row group."""

    path: Path
    first: int
    ends: Any


class Recording:
    """Groups of recorded samples, in the order in which a run trained them; those that it never
    trained come last, as they were scored.

    Args:
        paths: run folders, folders of shards, or shards.
        size: samples of a group. A recorded group that has more is read as several, one that has
            fewer with None in their places; where fewer than half would be there it is left out.

    Attributes:
        origin: of all shards.
        names: of the groups, all different.
        samples: in all.
        left_out: samples of groups that are left out.
        trained: groups that their run trained.

    Raises:
        ValueError: no shard, one that cannot be read, or shards that do not go together.
    """

    def __init__(self, paths: Sequence[Path], size: int) -> None:
        self._size = size
        self._shards: list[_Shard] = []
        self._tables: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._kept_bytes = 0
        self.samples = 0
        self.left_out = 0
        self.trained = 0
        self.names: list[str] = []
        self._groups: list[Any] = []  # row numbers
        origins: dict[Path, Origin] = {}
        for number, path in enumerate(paths):
            self._add(path, f"{number}:" if len(paths) > 1 else "", origins)
        self._firsts = numpy.array([shard.first for shard in self._shards])
        self.origin = _common(origins)
        if not self.names:
            raise ValueError(
                f"{', '.join(map(str, paths))}: of {self.samples} samples none is in a group that "
                f"has rewards for half of its {size} (--rollout.n_samples_per_prompt)"
            )

    def __len__(self) -> int:
        return len(self.names)

    def read(self, group: int) -> list[RecordedSample | None]:
        """The samples of a group, None where there is none.

        Raises:
            ValueError: a shard is damaged, or gone.
        """
        rows = self._groups[group]
        shards = numpy.searchsorted(self._firsts, rows, side="right") - 1
        parts = [
            numpy.searchsorted(self._shards[shard].ends, row, side="right")
            for shard, row in zip(shards, rows, strict=True)
        ]
        found: list[RecordedSample | None] = [None] * self._size
        for key in dict.fromkeys(zip(shards.tolist(), map(int, parts), strict=True)):
            places = [i for i, at in enumerate(zip(shards, parts, strict=True)) if at == key]
            shard, part = self._shards[key[0]], key[1]
            begin = int(shard.ends[part - 1]) if part else shard.first
            table = self._table(*key).take(rows[places] - begin)
            for place, sample in zip(places, from_table(table), strict=True):
                found[place] = sample
        return found

    def __iter__(self) -> Iterator[list[RecordedSample | None]]:
        return map(self.read, range(len(self)))

    def _add(self, path: Path, prefix: str, origins: dict[Path, Origin]) -> None:
        """Take in the shards of one path."""
        tables = []
        shards = find_shards(path)
        for shard in shards:
            origins[shard], ends, table = _open(shard)
            self._shards.append(_Shard(shard, self.samples, self.samples + ends))
            self.samples += len(table["ticket"])
            tables.append(table)
        columns = {name: numpy.concatenate([table[name] for table in tables]) for name in _INDEX}
        first = self.samples - len(columns["ticket"])
        folder = shards[0].parent
        stamps = folder.parent / STAMPS_FILE if folder.name == FOLDER else None
        self._group(columns, first, prefix, _trained_order(stamps))

    def _group(self, columns: Any, first: int, prefix: str, order: dict[int, int]) -> None:
        rows = numpy.lexsort((columns["sample"], columns["ticket"]))
        tickets, starts = numpy.unique(columns["ticket"][rows], return_index=True)
        found: list[tuple[int, int, str, Any]] = []
        for ticket, group in zip(tickets.tolist(), numpy.split(rows, starts[1:]), strict=True):
            parts = numpy.array_split(group, -(-len(group) // self._size))
            for number, part in enumerate(parts):
                if 2 * columns["reward"][part].sum() < self._size:
                    self.left_out += len(part)
                    continue
                name = f"{prefix}{columns['prompt_id'][part[0]]}/{ticket}"
                if len(parts) > 1:
                    name += f".{number}"
                # The last of its samples was written when the group was whole.
                place = order.get(ticket, len(order) + int(part.max()))
                found.append((place, number, name, first + part))
                self.trained += ticket in order
        found.sort(key=lambda each: each[:2])
        self.names += [name for _, _, name, _ in found]
        self._groups += [part.astype(numpy.int64) for _, _, _, part in found]

    def _table(self, shard: int, group: int) -> Any:
        key = shard, group
        if key not in self._tables:
            with _readable(self._shards[shard].path) as file:
                table = file.read_row_group(group)
            self._tables[key] = table
            self._kept_bytes += table.nbytes
            while self._kept_bytes > _KEPT_BYTES and len(self._tables) > 1:
                _, oldest = self._tables.popitem(last=False)
                self._kept_bytes -= oldest.nbytes
        self._tables.move_to_end(key)
        return self._tables[key]


def _trained_order(stamps: Path | None) -> dict[int, int]:
    """Place of each ticket among those that the run trained; empty where nobody says."""
    if stamps is None or not stamps.exists():
        return {}
    return {line["ticket"]: place for place, line in enumerate(read_json_lines(stamps))}


def _open(path: Path) -> tuple[Origin, Any, dict[str, Any]]:
    """(origin, ends of its row groups, columns of the index) of a shard."""
    with _readable(path) as file:
        origin = read_origin(file.schema_arrow, str(path))
        groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        table = file.read(columns=list(_INDEX)).combine_chunks()
    failures = table.column("failure").to_numpy(zero_copy_only=False)
    scored = table.column("reward").is_valid().to_numpy(zero_copy_only=False)
    columns = {
        "ticket": table.column("ticket").to_numpy(),
        "sample": table.column("sample").to_numpy(),
        "reward": scored | (failures == REWARD_MODEL),
        "failure": failures,
        "prompt_id": table.column("prompt_id").to_numpy(zero_copy_only=False),
    }
    return origin, numpy.cumsum(groups, dtype=numpy.int64), columns


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[Any]:
    """A shard as a `pyarrow.parquet.ParquetFile`.

    Raises:
        ValueError: it is none, or cannot be read to its end.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise ValueError(
            f"{path} cannot be read: it is cut short, damaged, or no Parquet file ({reason}). "
            "Copy it again, or move it out of the folder to go on without its samples"
        ) from error


def _common(origins: dict[Path, Origin]) -> Origin:
    """What all shards have in common.

    Raises:
        ValueError: they are of different tokenizers or temperatures.
    """
    (first, origin), *others = origins.items()
    for path, other in others:
        for name, what in (("tokenizer", "tokenizers"), ("temperature", "temperatures")):
            if getattr(other, name) != getattr(origin, name):
                raise ValueError(
                    f"{path} and {first} are of different {what} ({getattr(other, name)} and "
                    f"{getattr(origin, name)}): train on one of them at a time"
                )
    return origin
