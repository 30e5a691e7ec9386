"""Shards as they are written: each is there whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vespo_openrlhf.files import written_whole
from vespo_openrlhf.recorded.schema import Origin, RecordedSample, to_table

#: Of a row group, in bytes as they are in memory: what is read to have one of its samples.
_ROW_GROUP_BYTES = 2**20
_COMPRESSION = "zstd"


def write_shard(path: Path, samples: Sequence[RecordedSample], origin: Origin) -> None:
    """Write one shard; its folder is made.

    Args:
        samples: at least one.
    """
    import pyarrow.parquet as pq

    table = to_table(samples, origin)
    rows = max(1, _ROW_GROUP_BYTES * len(samples) // max(table.nbytes, 1))
    with written_whole(path) as draft:
        pq.write_table(table, draft, compression=_COMPRESSION, row_group_size=rows)


class ShardWriter:
    """Writes one shard after another, of so many bytes at most.

    Args:
        folder: of the shards, which must hold none yet.
        origin: of all samples.
        shard_bytes: of tokens, about.
    """

    def __init__(self, folder: Path, origin: Origin, shard_bytes: int = 2**26) -> None:
        self._folder = folder
        self._origin = origin
        self._shard_bytes = shard_bytes
        self._samples: list[RecordedSample] = []
        self._bytes = 0
        self._shards = 0

    def add(self, sample: RecordedSample) -> None:
        """One more."""
        self._samples.append(sample)
        self._bytes += sample_bytes(sample)
        if self._bytes >= self._shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting."""
        if self._samples:
            path = self._folder / f"{self._shards:06d}.parquet"
            write_shard(path, self._samples, self._origin)
            self._samples, self._bytes = [], 0
            self._shards += 1


def sample_bytes(sample: RecordedSample) -> int:
    """What a sample takes in memory, about."""
    return 9 * len(sample.tokens) + 512
