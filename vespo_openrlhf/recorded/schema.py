"""What a shard of recorded rollouts holds: a row a sample, in columns of Parquet.

docs/offline.md has the table. A reader of another version is told so by `VERSION`; a column that is
added does not change it, one that changes its meaning does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy

from vespo_openrlhf.scheduling.lag import Spans

if TYPE_CHECKING:
    import pyarrow

#: Of the schema, in the metadata of each shard.
VERSION = 1
#: Name of a shard's metadata; its value is a JSON object.
_KEY = b"vespo_openrlhf.recorded"

#: (start, end, reward) of each turn: it sampled the tokens [start:end] of the sequence; the reward
#: is NaN where the executor tells the episode's alone. () where turns are not known.
Turns: TypeAlias = "tuple[tuple[int, int, float], ...]"

#: Of a sample that a reward model is to score.
REWARD_MODEL = "reward_model"


@dataclass(frozen=True, eq=False)
class RecordedSample:
    """One response of a group, as it was scored.

    Attributes:
        ticket: names the group within its folder.
        sample, samples: which of how many the group has, from 0.
        prompt_id: names the prompt in its data set.
        epoch, row: which occurrence of the prompt it answers, both from 0.
        prompt, label: as the reward had them.
        tokens: (T,) int32, prompt and response; none of a sample that failed.
        action_mask: (T,) bool, the tokens that the policy sampled.
        log_probs: (T,) float32, nats, of the behaviour policy; read where a token was sampled.
            None: not known.
        token_versions: updates of the policy behind the sampled tokens, oldest first; () where
            nobody knows.
        turns: of an episode.
        reward: None where there is none.
        failure: why there is none, as it is counted.
        logged: parts of the reward and whatever else it logs, by name.
        finish_reason: "stop", or "length" where it was cut off.
        engine: which sampled it.
        version: that every engine had when the group was sent.
        dispatched_at, generated_at, scored_at: seconds since the epoch; NaN where not known.
    """

    ticket: int
    sample: int
    samples: int
    prompt_id: str
    tokens: Any
    action_mask: Any
    log_probs: Any = None
    reward: float | None = None
    epoch: int = 0
    row: int = 0
    prompt: str = ""
    label: str = ""
    token_versions: Spans = ()
    turns: Turns = ()
    failure: str = ""
    logged: Mapping[str, float] = field(default_factory=dict)
    finish_reason: str = "stop"
    engine: str = ""
    version: int = 0
    dispatched_at: float = float("nan")
    generated_at: float = float("nan")
    scored_at: float = float("nan")


@dataclass(frozen=True)
class Origin:
    """What all samples of a shard have in common, in its metadata.

    Attributes:
        source: what made it: "run", or an importer's name.
        model: whose policy sampled it, as it was named then.
        tokenizer: see `tokenizer_digest`; "" where nobody knows.
        temperature: that the log-probs are of.
    """

    source: str
    model: str = ""
    tokenizer: str = ""
    temperature: float = 1.0


@cache
def arrow_schema() -> pyarrow.Schema:
    """The columns, in the order of `RecordedSample`'s use."""
    import pyarrow as pa

    pair = pa.struct([("version", pa.int64()), ("tokens", pa.int32())])
    turn = pa.struct([("start", pa.int32()), ("end", pa.int32()), ("reward", pa.float64())])
    named = pa.struct([("name", pa.string()), ("value", pa.float64())])
    columns = {
        "ticket": pa.int64(),
        "sample": pa.int32(),
        "samples": pa.int32(),
        "prompt_id": pa.string(),
        "epoch": pa.int32(),
        "row": pa.int64(),
        "prompt": pa.string(),
        "label": pa.string(),
        "tokens": pa.list_(pa.int32()),
        "action_mask": pa.list_(pa.bool_()),
        "log_probs": pa.list_(pa.float32()),
        "token_versions": pa.list_(pair),
        "turns": pa.list_(turn),
        "reward": pa.float64(),
        "failure": pa.string(),
        "logged": pa.list_(named),
        "finish_reason": pa.string(),
        "engine": pa.string(),
        "version": pa.int64(),
        "dispatched_at": pa.float64(),
        "generated_at": pa.float64(),
        "scored_at": pa.float64(),
    }
    assert columns.keys() == {spec.name for spec in dataclasses.fields(RecordedSample)}
    return pa.schema(list(columns.items()))


def to_table(samples: Sequence[RecordedSample], origin: Origin) -> pyarrow.Table:
    """Rows in the order of `samples`."""
    import pyarrow as pa

    schema = arrow_schema()
    columns: list[Any] = []
    for column in schema:
        values = [getattr(sample, column.name) for sample in samples]
        if column.name in ("tokens", "action_mask", "log_probs"):
            columns.append(_lists(values, column.type))
            continue
        if column.name in ("token_versions", "turns", "logged"):
            columns.append(_structs(values, column.type))
            continue
        columns.append(pa.array(values, column.type, from_pandas=column.name.endswith("_at")))
    about = {"version": VERSION, **dataclasses.asdict(origin)}
    return pa.table(columns, schema=schema.with_metadata({_KEY: json.dumps(about)}))


def _lists(values: Sequence[Any], kind: Any) -> Any:
    """Arrays of different lengths, or None, as one column, without a Python object a token."""
    import pyarrow as pa

    sizes = [0 if value is None else len(value) for value in values]
    offsets = numpy.concatenate([[0], numpy.cumsum(sizes)]).astype(numpy.int32)
    known = [value for value in values if value is not None]
    dtype = kind.value_type.to_pandas_dtype()
    flat = numpy.concatenate(known).astype(dtype) if known else numpy.empty(0, dtype)
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        pa.array(flat, kind.value_type),
        type=kind,
        mask=pa.array([value is None for value in values]),
    )


def _structs(values: Sequence[Any], kind: Any) -> Any:
    """Tuples of tuples, or mappings, as one column, without a dictionary a tuple."""
    import pyarrow as pa

    rows = [value.items() if isinstance(value, Mapping) else value for value in values]
    offsets = numpy.concatenate([[0], numpy.cumsum([len(row) for row in rows])])
    flat = [each for row in rows for each in row]
    parts = [
        pa.array([each[place] for each in flat], part.type)
        for place, part in enumerate(kind.value_type)
    ]
    items = pa.StructArray.from_arrays(parts, fields=list(kind.value_type))
    return pa.ListArray.from_arrays(pa.array(offsets.astype(numpy.int32)), items, type=kind)


def from_table(table: pyarrow.Table) -> list[RecordedSample]:
    """The samples of a table's rows."""
    columns: dict[str, list[Any]] = {}
    for name in arrow_schema().names:
        column = table.column(name)
        if name in ("tokens", "action_mask", "log_probs"):
            columns[name] = _arrays(column.combine_chunks())
        elif name in ("token_versions", "turns"):
            columns[name] = [
                tuple(tuple(each.values()) for each in value or ()) for value in column.to_pylist()
            ]
        elif name == "logged":
            columns[name] = [
                {each["name"]: each["value"] for each in value or ()}
                for value in column.to_pylist()
            ]
        elif name.endswith("_at"):
            columns[name] = column.fill_null(float("nan")).to_pylist()
        else:
            columns[name] = column.to_pylist()
    return [
        RecordedSample(**dict(zip(columns, values, strict=True)))
        for values in zip(*columns.values(), strict=True)
    ]


def _arrays(column: Any) -> list[Any]:
    """A list column as arrays, None for null."""
    flat = column.values.to_numpy(zero_copy_only=False)
    ends = column.offsets.to_numpy()
    known = column.is_valid().to_numpy(zero_copy_only=False)
    return [
        flat[start:end] if there else None
        for start, end, there in zip(ends[:-1], ends[1:], known, strict=True)
    ]


def read_origin(schema: pyarrow.Schema, name: str) -> Origin:
    """What a shard says of itself, if this is a schema that can be read.

    Args:
        schema: of the shard.
        name: of the shard, for the message.

    Raises:
        ValueError: another version, or no shard of ours.
    """
    about = json.loads((schema.metadata or {}).get(_KEY, b"{}"))
    if "version" not in about:
        raise ValueError(
            f"{name} is no shard of recorded rollouts: what other trainers have left is made into "
            "such by python -m vespo_openrlhf.recorded import"
        )
    version = about.pop("version")
    if version != VERSION:
        raise ValueError(
            f"{name} has version {version} of the schema, and this is made for {VERSION}: read it "
            "with the version of this project that wrote it"
        )
    expected = arrow_schema()
    wrong = [
        f"{column.name} ({column.type}{_found(schema, column.name)})"
        for column in expected
        if column.name not in schema.names or schema.field(column.name).type != column.type
    ]
    if wrong:
        raise ValueError(f"{name} has not the columns of its schema: {', '.join(wrong)}")
    known = {spec.name for spec in dataclasses.fields(Origin)}
    return Origin(**{key: value for key, value in about.items() if key in known})


def _found(schema: Any, name: str) -> str:
    return f", not {schema.field(name).type}" if name in schema.names else ", missing"


def tokenizer_digest(tokenizer: Any) -> str:
    """Of which token has which number: two tokenizers with the same read the same tokens.

    Args:
        tokenizer: of `transformers`, or a processor around one.
    """
    inner = getattr(tokenizer, "tokenizer", tokenizer)
    return _digest(sorted(inner.get_vocab().items()))


def _digest(items: Iterable[Any]) -> str:
    return hashlib.sha256(json.dumps(list(items)).encode()).hexdigest()[:16]
