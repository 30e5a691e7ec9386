"""Rows go to disk and come back as they were, and `datasets` reads them."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import datasets
import numpy
import pyarrow
import pyarrow.parquet as pq
import pytest

from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.recorded.reading import find_shards, read_common_origin, readable
from vespo_openrlhf.recorded.schema import (
    Origin,
    RecordedSample,
    from_table,
    read_origin,
    to_table,
    tokenizer_digest,
)
from vespo_openrlhf.recorded.writing import ShardWriter, write_shard

ORIGIN = Origin("run", "model", "digest", 0.7)


def same(one: RecordedSample, other: RecordedSample) -> bool:
    for spec in dataclasses.fields(RecordedSample):
        a, b = getattr(one, spec.name), getattr(other, spec.name)
        if a is None or b is None:
            if a is not b:
                return False
        elif not numpy.array_equal(a, b, equal_nan=spec.name.endswith(("_at", "probs", "reward"))):
            return False
    return True


def test_every_field_comes_back(make_sample, tmp_path: Path) -> None:
    samples = [
        make_sample(
            *(3, 1),
            prompt="Why?",
            label="42",
            epoch=1,
            row=17,
            turns=((3, 5, 0.5), (6, 8, -1.0)),
            logged={"score": 1.0, "length": 5.0},
            finish_reason="length",
            engine="engine-1.2",
            version=2,
            dispatched_at=1.5,
            generated_at=2.5,
            scored_at=3.25,
        ),
        # Everything that may be missing is.
        make_sample(
            *(3, 2),
            tokens=numpy.empty(0),
            action_mask=numpy.empty(0),
            log_probs=None,
            reward=None,
            failure="reward_timeout",
            token_versions=(),
        ),
        make_sample(3, 3, reward=math.nan),
    ]
    write_shard(tmp_path / "one.parquet", samples, ORIGIN)
    table = pq.read_table(tmp_path / "one.parquet")
    assert all(map(same, samples, from_table(table)))
    assert read_origin(table.schema, "one") == ORIGIN


def test_a_part_of_a_table_has_its_own_rows(make_sample) -> None:
    """The lists of a slice begin in the middle of what they are cut from."""
    samples = [make_sample(0, i, turns=((3, 3 + i, 0.0),) * i) for i in range(4)]
    table = to_table(samples, ORIGIN)
    assert all(map(same, samples[1:3], from_table(table.slice(1, 2))))
    assert all(map(same, samples[2:0:-1], from_table(table.take([2, 1]))))


def test_datasets_reads_a_folder_of_shards(make_sample, tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "shards", ORIGIN, shard_bytes=1500)
    for ticket in range(3):
        for sample in range(4):
            writer.add(make_sample(ticket, sample))
    writer.flush()
    files = [str(path) for path in find_shards(tmp_path / "shards")]
    assert len(files) > 2
    rows = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows["ticket"] == [0] * 4 + [1] * 4 + [2] * 4
    assert rows[5]["tokens"] == [11, 1, 2, 3, 4, 5, 6, 7]
    assert rows[5]["token_versions"] == [{"version": 2, "tokens": 3}, {"version": 3, "tokens": 2}]


def test_nothing_is_left_of_a_shard_that_could_not_be_written(make_sample, tmp_path: Path) -> None:
    with pytest.raises(pyarrow.ArrowInvalid):
        write_shard(tmp_path / "one.parquet", [make_sample(logged={"a": "b"})], ORIGIN)
    assert not list(tmp_path.iterdir())


def test_a_table_of_somebody_else_is_sent_to_the_importers(make_sample, tmp_path: Path) -> None:
    table = to_table([make_sample()], ORIGIN)
    pq.write_table(table.replace_schema_metadata({}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match=r"is no shard of recorded rollouts: .*recorded import$"):
        read_common_origin([tmp_path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(["log_probs"]), r"log_probs \(list<.*>, missing\)"),
        (
            lambda table: table.set_column(
                0, "ticket", table.column("ticket").cast("string").combine_chunks()
            ),
            r"ticket \(int64, not string\)",
        ),
    ],
)
def test_columns_of_another_kind_are_named(change, message: str, make_sample) -> None:
    table = to_table([make_sample()], ORIGIN)
    changed = change(table).replace_schema_metadata(table.schema.metadata)
    with pytest.raises(ValueError, match=message):
        read_origin(changed.schema, "shard")


def test_another_version_is_refused_and_a_column_more_is_not(make_sample) -> None:
    table = to_table([make_sample()], ORIGIN)
    ((key, about),) = table.schema.metadata.items()
    newer = json.loads(about) | {"version": 2}
    with pytest.raises(ValueError, match="has version 2 of the schema, and this is made for 1"):
        read_origin(table.replace_schema_metadata({key: json.dumps(newer)}).schema, "shard")
    more = table.append_column("mine", [[1]]).replace_schema_metadata(
        {key: json.dumps(json.loads(about) | {"mine": 1})}
    )
    assert read_origin(more.schema, "shard") == ORIGIN


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_a_shard_that_is_cut_short_is_named(kept: float, make_sample, tmp_path: Path) -> None:
    path = tmp_path / "one.parquet"
    write_shard(path, [make_sample()], ORIGIN)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    with pytest.raises(ValueError, match=r"one\.parquet cannot be read: it is cut short, damaged"):
        read_common_origin([tmp_path])


def test_pages_that_are_damaged_are_found_when_they_are_read(make_sample, tmp_path: Path) -> None:
    path = tmp_path / "one.parquet"
    write_shard(path, [make_sample(0, i) for i in range(4)] * 50, ORIGIN)
    damaged = bytearray(path.read_bytes())
    damaged[8:400] = bytes(392)
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"one\.parquet cannot be read"), readable(path) as file:
        file.read()


def test_a_tokenizer_is_known_by_its_tokens() -> None:
    tokenizer = build_tokenizer()
    digest = tokenizer_digest(tokenizer)
    assert digest == tokenizer_digest(build_tokenizer())
    assert len(digest) == 16
    tokenizer.add_tokens(["<new>"])
    assert digest != tokenizer_digest(tokenizer)
