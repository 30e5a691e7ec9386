"""``vespo reward audit``: what is wrong with the golds of a dataset."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vespo_openrlhf.reward.api import label_problems, verify
from vespo_openrlhf.reward.labels import parse_label
from vespo_openrlhf.rows import read_files

_LABELS = ("label", "answer", "ground_truth", "solution", "target")
_PROMPTS = ("prompt", "problem", "question", "input")


def read_rows(path: str) -> list[dict[str, Any]]:
    """The rows of a file, as training reads them.

    Raises:
        ValueError: it cannot be read, see `rows.read_files`.
    """
    return list(read_files([Path(path)], "vespo reward"))


def pick_column(rows: list[dict[str, Any]], wanted: str | None, usual: Iterable[str]) -> str | None:
    """The column asked for, or the first usual one that is there.

    Raises:
        ValueError: the column asked for is not there.
    """
    columns = set().union(*(row.keys() for row in rows[:100])) if rows else set()
    if wanted is not None:
        if wanted not in columns:
            raise ValueError(f"no column {wanted!r}; there are {sorted(columns)}")
        return wanted
    return next((name for name in usual if name in columns), None)


def label_column_of(rows: list[dict[str, Any]], wanted: str | None) -> str:
    """The column of golds.

    Raises:
        ValueError: there is none.
    """
    column = pick_column(rows, wanted, _LABELS)
    if column is None:
        raise ValueError(f"no column of golds; give one with --label-key (looked for {_LABELS})")
    return column


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def audit(
    rows: list[dict[str, Any]], label_key: str | None = None, prompt_key: str | None = None
) -> dict[str, Any]:
    """Find golds that are empty, do not parse or do not match themselves, and duplicates.

    Returns:
        ``rows``, ``label_key``, and per problem the row numbers: ``empty``, ``unusable`` (with
        why), ``not_itself``, ``duplicate`` (same prompt and gold), ``conflict`` (same prompt,
        different golds).

    Raises:
        ValueError: there is no column of golds.
    """
    label_column = label_column_of(rows, label_key)
    prompt_column = pick_column(rows, prompt_key, _PROMPTS)
    labels = [row.get(label_column) for row in rows]
    problems = label_problems(labels)
    report: dict[str, Any] = {"rows": len(rows), "label_key": label_column}
    report["empty"] = [i for i, problem in enumerate(problems) if problem == "empty"]
    report["unusable"] = {i: p for i, p in enumerate(problems) if p and p != "empty"}

    def matches_itself(index: int) -> bool:
        golds = parse_label(labels[index]).golds
        return all(verify(f"\\boxed{{{gold}}}", gold).correct for gold in golds if gold.strip())

    sound = [i for i, problem in enumerate(problems) if problem is None]
    with ThreadPoolExecutor(8) as threads:
        itself = list(threads.map(matches_itself, sound))
    report["not_itself"] = [i for i, right in zip(sound, itself, strict=True) if not right]
    report["duplicate"], report["conflict"] = [], []
    if prompt_column is not None:
        seen: dict[str, list[int]] = defaultdict(list)
        for index, row in enumerate(rows):
            seen[_text(row.get(prompt_column))].append(index)
        for group in seen.values():
            first = _text(labels[group[0]])
            for index in group[1:]:
                same = _text(labels[index]) == first
                report["duplicate" if same else "conflict"].append(index)
    return report


def main(path: str, label_key: str | None, prompt_key: str | None, show: int) -> int:
    """Print the report; 1 if a gold cannot be used."""
    rows = read_rows(path)
    report = audit(rows, label_key, prompt_key)
    print(f"{path}: {report['rows']} rows, golds in {report['label_key']!r}")
    for name in ("empty", "unusable", "not_itself", "duplicate", "conflict"):
        found = report[name]
        print(f"  {name:<11}{len(found):>7}")
        for index in list(found)[:show]:
            gold = _text(rows[index].get(report["label_key"]))[:80]
            why = f"  ({found[index]})" if isinstance(found, dict) else ""
            print(f"      row {index}: {gold!r}{why}")
    return 1 if report["empty"] or report["unusable"] or report["not_itself"] else 0
