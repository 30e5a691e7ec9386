"""Reads a benchmark's rows, from the hub or a local file, and checks them first."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vespo_openrlhf.eval.benchmarks.benchmark import EMBEDDED, Benchmark, squashed
from vespo_openrlhf.rows import KINDS, hub_revision, read_files, read_hub

_SHARD = re.compile(r"^\d{5}$")


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        id: in the data.
        text: of the problem, without its choices.
        gold: as `reward.labels` reads it; of a problem with choices the text of the right one.
        choices: the right one first; empty for a problem without.
        tolerance: absolute, of a number; 0 is none.
        solution: worked, where the data has it; only examples show it.
    """

    id: str
    text: str
    gold: str
    choices: tuple[str, ...] = ()
    tolerance: float = 0.0
    solution: str = ""


@dataclass(frozen=True)
class Question:
    """A problem as one repeat asks it.

    Attributes:
        text: with the choices, if any.
        gold: as `reward.labels` reads it.
        order: which of `Problem.choices` stands at each letter; empty without choices.
    """

    text: str
    gold: str
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Loaded:
    """A benchmark with its problems.

    Attributes:
        benchmark: its entry; the template of a plain file is filled in.
        problems: in the data's order.
        whole: how many problems the data holds; more than these where they are limited.
        source: where they were read from.
        checksum: SHA-256 of ids, texts, golds and choices.
        revision: of the hub's dataset, the commit that was read; None for a file, or where the
            hub did not tell.
    """

    benchmark: Benchmark
    problems: tuple[Problem, ...]
    source: str
    checksum: str
    whole: int
    revision: str | None = None

    def first(self, limit: int | None) -> Loaded:
        """The first `limit` problems, with a checksum of their own; all of them for None."""
        if limit is None or limit >= len(self.problems):
            return self
        problems = self.problems[:limit]
        return replace(self, problems=problems, checksum=_checksum(problems))

    def ask(self, problem: Problem, seed: int, repeat: int) -> Question:
        """A problem as a repeat asks it: its choices stand in an order of that repeat's own.

        So a model that favours a letter, or a place in the list, gains nothing by it on average.
        """
        if not problem.choices:
            return Question(problem.text, problem.gold)
        order = list(range(len(problem.choices)))
        random.Random(f"{seed}/{self.benchmark.name}/{problem.id}/{repeat}").shuffle(order)
        letters = [chr(65 + place) for place in range(len(order))]
        lines = [f"({a}) {problem.choices[i]}" for a, i in zip(letters, order, strict=True)]
        text = "\n".join([problem.text.strip(), "", *lines, "", "Answer with the letter alone."])
        gold = {"answer": letters[order.index(0)], "type": "choice"}
        return Question(text, json.dumps(gold), tuple(order))


def load(benchmark: Benchmark, data_dir: Path | None = None) -> Loaded:
    """Read and check a benchmark.

    Args:
        benchmark: its entry.
        data_dir: a folder in which its file is looked for by name, instead of the hub.

    Raises:
        ValueError: the data cannot be found or read, is empty, lacks a column, has the wrong
            number of rows, or a row without a problem, a gold, or an id of its own.
    """
    revision = None
    if benchmark.name == EMBEDDED:
        rows, source = _embedded(), "vespo_openrlhf.embedded, seed 0"
    elif benchmark.path:
        rows, source = list(read_files([Path(benchmark.path)], "--benchmarks")), benchmark.path
    elif data_dir is not None:
        files = find_files(benchmark, data_dir)
        rows, source = list(read_files(files, "--data-dir")), ", ".join(map(str, files))
    else:
        instead = (
            f"put its file into a folder as {benchmark.name}.jsonl or .parquet and name that with "
            "--data-dir"
        )
        table = read_hub(
            benchmark.hub, benchmark.config, benchmark.split, instead, benchmark.revision
        )
        rows, revision = list(table), hub_revision(table)
        source = f"hub: {benchmark.hub}, split {benchmark.split}"
    if not rows:
        raise ValueError(f"benchmark {benchmark.name}: {source} holds no rows")
    if benchmark.rows is not None and len(rows) != benchmark.rows:
        raise ValueError(
            f"benchmark {benchmark.name}: {source} holds {len(rows)} rows, but the benchmark has "
            f"{benchmark.rows}; results on other data cannot be compared. Use the complete file, "
            "or name the file itself in --benchmarks"
        )
    if not benchmark.template:
        # A file of prompts is for sending as it stands; a file of problems wants the instruction.
        column = _column(benchmark.problem, rows, benchmark, source)
        benchmark = replace(benchmark, template="plain" if column == "prompt" else "qwen")
    problems = tuple(_problems(benchmark, rows, source))
    checksum = _checksum(problems)
    return Loaded(benchmark, problems, source, checksum, len(problems), revision=revision)


def _checksum(problems: Sequence[Problem]) -> str:
    text = "\n".join(json.dumps([p.id, p.text, p.gold, *p.choices]) for p in problems)
    return hashlib.sha256(text.encode()).hexdigest()


def find_files(benchmark: Benchmark, folder: Path) -> list[Path]:
    """The file (or the shards) of a benchmark in a folder, whatever the usual name it goes by.

    ``math500.jsonl``, ``MATH-500/test.jsonl``, ``gsm8k_test.jsonl``,
    ``gsm8k/main/test-00000-of-00001.parquet``: letter case, punctuation, the split and the
    shard's number do not matter.

    Raises:
        ValueError: there is no such folder, none is found, or files of several names are.
    """
    if not folder.is_dir():
        raise ValueError(f"--data-dir {folder}: there is no such folder")
    wanted = {squashed(name) for name in (benchmark.name, *benchmark.aliases)}
    wanted.add(squashed(benchmark.hub.rpartition("/")[2]))
    found: dict[tuple[Path, str], list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in KINDS or not path.is_file():
            continue
        parts = path.relative_to(folder).with_suffix("").parts
        if any(_name(parts[-n:], benchmark) in wanted for n in range(1, len(parts) + 1)):
            stem = re.sub(r"-\d{5}-of-\d{5}$", "", path.stem)
            found.setdefault((path.parent, stem + path.suffix), []).append(path)
    if not found:
        raise ValueError(
            f"benchmark {benchmark.name}: no file of it in --data-dir {folder}; call it "
            f"{benchmark.name}.jsonl or {benchmark.name}.parquet"
        )
    if len(found) > 1:
        several = ", ".join(str(paths[0]) for paths in found.values())
        raise ValueError(
            f"benchmark {benchmark.name}: several files go by its name: {several}. Leave one in "
            "--data-dir, or name the file in --benchmarks"
        )
    return next(iter(found.values()))


def _name(parts: Sequence[str], benchmark: Benchmark) -> str:
    words = re.split(r"[^a-z0-9]+", " ".join(parts).lower())
    meaningless = {"data", "of", "test", benchmark.split, *filter(None, [benchmark.config])}
    return "".join(w for w in words if w not in meaningless and not _SHARD.match(w))


def _embedded() -> list[dict[str, Any]]:
    """The held-out problems that ``python -m vespo_openrlhf.embedded`` builds by default."""
    from vespo_openrlhf.embedded.arithmetic import task_problems, to_row
    from vespo_openrlhf.embedded.options import BuildOptions

    heldout, _, _ = task_problems(BuildOptions())
    return [dict(to_row(problem)) for problem in heldout]


def _column(
    names: Sequence[str], rows: Sequence[dict[str, Any]], benchmark: Benchmark, source: str
) -> str:
    for name in names:
        if name in rows[0]:
            return name
    raise ValueError(
        f"benchmark {benchmark.name}: {source} has no column {' or '.join(names)}; it has "
        f"{', '.join(rows[0])}"
    )


def _problems(benchmark: Benchmark, rows: list[dict[str, Any]], source: str) -> list[Problem]:
    text = _column(benchmark.problem, rows, benchmark, source)
    gold = _column(benchmark.gold, rows, benchmark, source)
    identity = next((name for name in benchmark.id if name in rows[0]), None)
    for name in (*benchmark.wrong_choices, *filter(None, [benchmark.tolerance_column])):
        _column((name,), rows, benchmark, source)
    worked = next((name for name in benchmark.solution if name in rows[0]), "")
    problems = []
    seen: set[str] = set()
    for number, row in enumerate(rows):
        where = f"benchmark {benchmark.name}: row {number} of {source}"
        key = str(number) if identity is None else str(row[identity])
        if key in seen or (identity is not None and row[identity] is None):
            raise ValueError(f"{where} has no id of its own in column {identity}: {key!r}")
        seen.add(key)
        answer = _gold(row[gold], benchmark.answer_marker)
        if not answer or not str(row[text] or "").strip():
            empty = text if answer else gold
            raise ValueError(f"{where} has nothing in column {empty}")
        choices: tuple[str, ...] = ()
        if benchmark.wrong_choices:
            choices = (answer, *(str(row[name]).strip() for name in benchmark.wrong_choices))
        elif benchmark.type != "math":
            answer = json.dumps({"answer": answer, "type": benchmark.type})
        tolerance = _tolerance(row.get(benchmark.tolerance_column))
        solution = _solution(row.get(worked), benchmark.answer_marker)
        problems.append(Problem(key, str(row[text]), answer, choices, tolerance, solution))
    return problems


def _tolerance(cell: Any) -> float:
    """The number in a cell; 0 where it holds none, or several for a list of answers."""
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return 0.0
    return number if 0 < number < float("inf") else 0.0


def _solution(cell: Any, marker: str) -> str:
    text = "\n".join(map(str, cell)) if isinstance(cell, (list, tuple)) else str(cell or "")
    return text.rpartition(marker)[0] if marker and marker in text else text


def _gold(value: Any, marker: str) -> str:
    if isinstance(value, dict):
        return json.dumps(value)  # a label of the reward's, with alternatives or a type
    if isinstance(value, (list, tuple)):
        value = ", ".join(str(part) for part in value)
    elif value is None:
        return ""
    elif isinstance(value, float) and value.is_integer():
        value = int(value)  # 33.0 where a column of integers was stored as float
    text = str(value)
    return text.rpartition(marker)[2].strip() if marker else text.strip()
