"""What ``--benchmarks`` asks for: benchmarks by name, and a user's own.

A user's own is the fields of :class:`Benchmark` in a YAML file, an instance in a Python file, or
nothing but a JSONL, CSV or Parquet file with problems and answers.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path

from vespo_openrlhf import user_code
from vespo_openrlhf.eval.benchmarks.benchmark import BENCHMARKS, Benchmark, squashed
from vespo_openrlhf.rows import KINDS


@dataclass(frozen=True)
class Selection:
    """A benchmark that was asked for, and the responses to each problem; None is the default."""

    benchmark: Benchmark
    repeats: int | None


def parse(text: str) -> list[Selection]:
    """Read ``--benchmarks``: comma-separated names, each with its repeats after a colon.

    ``aime24:32``, ``my.jsonl:8``, ``my.yaml``, ``my.py:BENCHMARK:4``.

    Raises:
        ValueError: an unknown name (the nearest are offered), a file that is not there or cannot
            be read, repeats that are no number, or one benchmark twice.
    """
    selections = [_parse_one(part.strip()) for part in text.split(",") if part.strip()]
    if not selections:
        raise ValueError(f"--benchmarks is empty; known are {', '.join(BENCHMARKS)}")
    names = [selection.benchmark.name for selection in selections]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"--benchmarks asks for {name} twice")
    return selections


def _parse_one(text: str) -> Selection:
    what, colon, count = text.rpartition(":")
    if not colon or (what.endswith(".py") and not count.isdigit()):
        what, repeats = text, None
    elif count.isdigit() and int(count) > 0:
        repeats = int(count)
    else:
        raise ValueError(f"--benchmarks {text}: after the colon stands a number of 1 or more")
    return Selection(_find(what), repeats)


def _find(what: str) -> Benchmark:
    if ".py:" in what:
        return _from_python(what)
    suffix = Path(what).suffix.lower()
    if suffix in (".yaml", ".yml"):
        return _from_yaml(Path(what))
    if suffix in KINDS:
        name = re.sub(r"[^\w.-]+", "_", Path(what).stem).lstrip(".-") or "problems"
        return Benchmark(name, path=_existing(what), template="")
    key = squashed(what)
    for benchmark in BENCHMARKS.values():
        if key in map(squashed, (benchmark.name, *benchmark.aliases)):
            return benchmark
    near = difflib.get_close_matches(what.lower(), BENCHMARKS, n=3, cutoff=0.4)
    raise ValueError(
        f"unknown benchmark {what!r}: "
        + (f"did you mean {' or '.join(near)}? " if near else "")
        + f"Known are {', '.join(BENCHMARKS)}; your own is a .jsonl, .csv, .parquet or .yaml "
        "file, or file.py:NAME"
    )


def _existing(path: str) -> str:
    if not Path(path).is_file():
        raise ValueError(f"--benchmarks {path}: there is no such file")
    return path


def _from_yaml(path: Path) -> Benchmark:
    import yaml

    _existing(str(path))
    try:
        entry = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(entry, dict):
        raise ValueError(f"{path} must hold the fields of one benchmark, such as 'path: my.jsonl'")
    known = {field.name: field for field in fields(Benchmark)}
    for name in entry:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            raise ValueError(
                f"{path}: unknown field {name!r}"
                + (f", did you mean {near[0]}?" if near else "")
                + f" Known are {', '.join(known)}"
            )
    entry.setdefault("name", path.stem)
    try:
        for name, value in entry.items():
            if known[name].type.startswith("tuple"):
                entry[name] = (value,) if isinstance(value, str) else tuple(value)
        benchmark = Benchmark(**entry)
    except TypeError as error:
        raise ValueError(f"{path} does not describe a benchmark: {error}") from error
    if benchmark.path:
        benchmark = replace(benchmark, path=_existing(str(path.parent / benchmark.path)))
    if Path(benchmark.few_shot).suffix.lower() in KINDS:
        benchmark = replace(benchmark, few_shot=_existing(str(path.parent / benchmark.few_shot)))
    return benchmark


def _from_python(what: str) -> Benchmark:
    found = user_code.load(what, "--benchmarks")
    if not isinstance(found, Benchmark):
        raise ValueError(f"--benchmarks {what} is no Benchmark")
    return found
