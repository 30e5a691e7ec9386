"""Recorded samples as the tests want them, and imports by the embedded tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy
import pytest

from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.recorded.checks import Limits
from vespo_openrlhf.recorded.importing.convert import Options, Report, convert
from vespo_openrlhf.recorded.importing.formats import importer
from vespo_openrlhf.recorded.reading import Recording, find_shards
from vespo_openrlhf.recorded.schema import RecordedSample, from_table


@pytest.fixture
def make_sample() -> Callable[..., RecordedSample]:
    """`make_sample(ticket, sample, **changes)`: eight tokens, of which the last five were sampled;
    the first is ticket * 10 + sample."""

    def make(ticket: int = 0, sample: int = 0, **changes: Any) -> RecordedSample:
        values: dict[str, Any] = {
            "samples": 4,
            "prompt_id": f"{ticket}:abc",
            "tokens": numpy.array([ticket * 10 + sample, *range(1, 8)], dtype=numpy.int32),
            "action_mask": numpy.arange(8) >= 3,
            "log_probs": -numpy.arange(8, dtype=numpy.float32) / 8,
            "reward": float(sample % 2),
            "token_versions": ((2, 3), (3, 2)),
        } | changes
        return RecordedSample(ticket, sample, **values)

    return make


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture
def model(tmp_path: Path, tokenizer: Any) -> Path:
    """A folder with the tokenizer."""
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def write() -> Callable[[Path, Iterable[Any]], Path]:
    """Rows as lines of JSON; text as it is."""

    def written(path: Path, rows: Iterable[Any]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("".join(f"{line}\n" for line in lines))
        return path

    return written


@pytest.fixture
def take(tmp_path: Path, tokenizer: Any) -> Callable[..., tuple[Report, list[RecordedSample]]]:
    """Import with an importer: its report, and the samples in the order of their groups."""

    def taken(name: str, *sources: Path, **settings: Any) -> tuple[Report, list[RecordedSample]]:
        kind = importer(name)
        own = {key: settings.pop(key) for key in set(settings) & set(kind.Settings.__annotations__)}
        out = tmp_path / "out"
        with_tokenizer = settings.pop("tokenizer", tokenizer)
        reader = kind([str(source) for source in sources], kind.Settings(**own))
        report = convert(reader, with_tokenizer, Options(out, name, "embedded", **settings))
        return report, read(out)

    return taken


def read(out: Path) -> list[RecordedSample]:
    import pyarrow.parquet as pq

    samples = [s for shard in find_shards(out) for s in from_table(pq.read_table(shard))]
    return sorted(samples, key=lambda sample: (sample.ticket, sample.sample))


@pytest.fixture
def groups() -> Callable[[Path, int], list[list[RecordedSample | None]]]:
    """The groups of a folder as training reads them."""
    limits = Limits(10**6, 10**6, needs_log_probs=False)
    return lambda out, size: list(Recording([out], size, limits))


@pytest.fixture
def text(tokenizer: Any) -> Callable[[RecordedSample], tuple[str, str]]:
    """(tokens in all, the sampled ones) of a sample, as text."""

    def said(sample: RecordedSample) -> tuple[str, str]:
        return tokenizer.decode(sample.tokens), tokenizer.decode(sample.tokens[sample.action_mask])

    return said


@pytest.fixture
def chat() -> Callable[..., str]:
    """The embedded chat template's text of a user's message, and the opening of the response."""
    return lambda said: f"<|im_start|>user\n{said}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def parts() -> Callable[[RecordedSample], dict[str, float]]:
    """What the source logged of a sample, by its own names."""

    def own(sample: RecordedSample) -> dict[str, float]:
        assert all(name.startswith("source/") for name in sample.logged)
        return {name.removeprefix("source/"): value for name, value in sample.logged.items()}

    return own
