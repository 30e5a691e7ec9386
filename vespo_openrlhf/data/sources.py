"""The training datasets: where each one is, and how a row of it reads."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vespo_openrlhf.rows import read_files, read_hub

ARITHMETIC = "arithmetic"

# DAPO's prompts come with an instruction around the problem (arXiv 2503.14476; some editions ask
# for a box in it). What is asked of the model is decided by our template, not by the data.
_DAPO_INSTRUCTION = re.compile(
    r"Solve the following math problem step by step\..{0,200}?answer to the problem\.\s*(.*?)"
    r"\s*Remember to put your answer on its own line after \"Answer:\"\.",
    re.DOTALL,
)


# Where data prepared for verl, as that of VESPO's published code is, has its gold.
_VERL_GOLD = "reward_model.ground_truth"


@dataclass(frozen=True)
class Source:
    """One dataset.

    Attributes:
        name: what it is called on the command line and in the `source` column.
        hub: its dataset on the Hugging Face hub; empty where it is made or a user's own.
        configs: that dataset's configurations; their rows are put together.
        split: that dataset's split.
        problem: columns that may hold the problem, the first that is there is taken. A list of
            chat messages stands for its last message.
        gold: columns that may hold the gold answer, likewise; a dot leads into a nested column.
        boxed: the gold is the last ``\\boxed{}`` of that column, a solution.
        answer_marker: the gold is what follows the last of these (GSM8K's ``####``).
        template: put around each problem where the command line does not say.
        licence: of the data.
        url: where it is described.
    """

    name: str
    hub: str = ""
    configs: tuple[str | None, ...] = (None,)
    split: str = "train"
    problem: tuple[str, ...] = ("problem", "question", "prompt")
    gold: tuple[str, ...] = ("answer", "label", "gold", _VERL_GOLD)
    boxed: bool = False
    answer_marker: str = ""
    template: str = "qwen"
    licence: str = "unknown"
    url: str = ""


_ALL = (
    # 17,398 problems, each in it about a hundred times.
    Source(
        "dapo-math-17k",
        hub="BytedTsinghua-SIA/DAPO-Math-17k",
        problem=("prompt",),
        # `solution` is what open-r1's deduplicated edition of the data calls it.
        gold=(_VERL_GOLD, "solution"),
        licence="apache-2.0",
        url="arXiv 2503.14476",
    ),
    Source(
        "deepscaler",
        hub="agentica-org/DeepScaleR-Preview-Dataset",
        licence="mit",
        url="the DeepScaleR-1.5B-Preview release",
    ),
    Source(
        "gsm8k",
        hub="openai/gsm8k",
        configs=("main",),
        gold=("answer", "label", "gold"),  # of verl's edition, ground_truth has no marker
        answer_marker="####",
        licence="mit",
        url="arXiv 2110.14168",
    ),
    Source(
        "math",
        hub="EleutherAI/hendrycks_math",
        configs=(
            "algebra",
            "counting_and_probability",
            "geometry",
            "intermediate_algebra",
            "number_theory",
            "prealgebra",
            "precalculus",
        ),
        gold=("solution",),
        boxed=True,
        licence="mit",
        url="arXiv 2103.03874",
    ),
    Source(ARITHMETIC, template="plain", licence="apache-2.0"),
    Source("custom"),
)
SOURCES: Mapping[str, Source] = {source.name: source for source in _ALL}


@dataclass(frozen=True)
class Row:
    """One problem as it was read: its text without instructions, and its gold; both may be empty.

    The gold is a plain answer, several of them with commas between, or a JSON object as
    `reward.labels` reads it.
    """

    problem: str
    gold: str


def read(source: Source, files: Sequence[Path] = ()) -> tuple[Iterator[Row], int | None, str]:
    """The rows of a dataset, from local files where some are given, else from the hub.

    Returns:
        The rows, their number where it is known, and where they come from.

    Raises:
        ValueError: a file that is missing, empty or of no known kind; a dataset that cannot be
            read; a column that is not there; `custom` without files.
    """
    if files:
        where = ", ".join(map(str, files))
        tables = [read_files(files, "--from")]
    elif source.name == ARITHMETIC:
        rows = _arithmetic()
        return iter(rows), len(rows), "vespo_openrlhf.embedded, seed 0"
    elif not source.hub:
        raise ValueError(f"{source.name} is data of your own: name its files with --from")
    else:
        where = f"hub: {source.hub}, split {source.split}"
        instead = "download its files elsewhere and name them with --from"
        tables = [read_hub(source.hub, c, source.split, instead) for c in source.configs]
    columns = [
        (_column(source.problem, table, where), _column(source.gold, table, where))
        for table in tables
    ]
    rows_in_all = sum(len(table) for table in tables)
    if rows_in_all == 0:
        raise ValueError(f"{where} holds no rows")

    def rows_of() -> Iterator[Row]:
        for table, (problem, gold) in zip(tables, columns, strict=True):
            wanted = list(dict.fromkeys(name.partition(".")[0] for name in (problem, gold)))
            for row in table.select_columns(wanted):
                yield Row(_problem(row[problem]), _gold(_nested(row, gold), source))

    return rows_of(), rows_in_all, where


def _arithmetic() -> list[Row]:
    """The embedded task's training problems, which share no sum with its benchmark."""
    from vespo_openrlhf.embedded.arithmetic import task_problems
    from vespo_openrlhf.embedded.options import BuildOptions

    _, train, _ = task_problems(BuildOptions())
    return [Row(problem.prompt, problem.label) for problem in train]


def _column(names: Sequence[str], table: Any, where: str) -> str:
    for name in names:
        head, _, field = name.partition(".")
        column = table.features.get(head)
        if column is not None and (not field or (isinstance(column, dict) and field in column)):
            return name
    raise ValueError(
        f"{where} has no column {' or '.join(names)}; it has {', '.join(table.column_names)}"
    )


def _nested(row: Mapping[str, Any], name: str) -> Any:
    head, _, field = name.partition(".")
    return (row[head] or {}).get(field) if field else row[head]


def _problem(value: Any) -> str:
    if isinstance(value, list):  # chat messages
        value = value[-1].get("content") if value else ""
    text = str(value or "").strip()
    for instruction in _instructions():
        wrapped = instruction.fullmatch(text)
        if wrapped:
            return wrapped[1].strip()
    return text


@functools.cache
def _instructions() -> tuple[re.Pattern[str], ...]:
    """What a prompt may have around its problem: DAPO's words, or a template of ours."""
    from vespo_openrlhf.eval.benchmarks.templates import PLACE, TEMPLATES

    patterns = [_DAPO_INSTRUCTION]
    for template in TEMPLATES.values():
        around = [r"\s+".join(map(re.escape, t.split())) for t in template.text.split(PLACE)]
        if any(around):
            patterns.append(re.compile(r"\s*(.*)\s*".join(around), re.DOTALL))
    return tuple(patterns)


def _answer(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 33.0 where a column of integers was stored as float
    return "" if value is None else str(value).strip()


def _gold(value: Any, source: Source) -> str:
    if isinstance(value, Mapping):
        return json.dumps(value)
    if isinstance(value, (list, tuple)):
        # Several answers are the parts of one, all of them asked for, as `vespo eval` takes them.
        parts = [_answer(part) for part in value]
        text = ", ".join(parts) if all(parts) else ""
    else:
        text = _answer(value)
    if source.answer_marker:
        # Without the marker this is no answer but all of a solution.
        return text.rpartition(source.answer_marker)[2].strip() * (source.answer_marker in text)
    if source.boxed:
        from vespo_openrlhf.reward.reading.extract import extract

        return ", ".join(extract(text).answers)
    return text
