"""The result in its folder: Parquet, data card, manifest, and what was left out."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vespo_openrlhf.data.account import Dropped, Problem, Report
from vespo_openrlhf.data.card import card
from vespo_openrlhf.data.sources import Source
from vespo_openrlhf.eval.benchmarks.templates import PLACE, find_template
from vespo_openrlhf.reward.labels import parse_label

MANIFEST = "manifest.json"
DROPPED = "dropped.jsonl"
CARD = "README.md"


def check_folder(out: Path, source: str) -> None:
    """Refuse a folder that holds anything but an earlier result of the same dataset.

    Raises:
        ValueError: it does.
    """
    manifest = out / MANIFEST
    if manifest.is_file():
        try:
            there = json.loads(manifest.read_text()).get("source")
        except (ValueError, AttributeError):
            there = None
        if there != source:
            raise ValueError(f"--out {out} holds another dataset ({there}): name another")
    elif out.is_dir() and any(out.glob("*.parquet")):
        raise ValueError(
            f"--out {out} holds Parquet files and no {MANIFEST}: name another folder, or "
            "remove what an interrupted run has left there"
        )


def publish(
    out: Path,
    splits: Mapping[str, list[Problem]],
    source: Source,
    report: Report,
    dropped: Dropped,
) -> None:
    """Everything is written beside what stood there, and then takes its place: the manifest goes
    first and comes last, so a folder that has one is complete. One process at a time does so."""
    out.mkdir(parents=True, exist_ok=True)
    folder = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        with tempfile.TemporaryDirectory(dir=out, prefix=".new-") as new_folder:
            new = Path(new_folder)
            for name, part in splits.items():
                _write(new / f"{name}.parquet", part, source, report.settings["template"])
            text = "".join(f"{line}\n" for line in dropped.lines)
            (new / DROPPED).write_text(text, encoding="utf-8")
            (new / CARD).write_text(card(source, report), encoding="utf-8")
            (new / MANIFEST).write_text(json.dumps(asdict(report), indent=2) + "\n")
            for name in (MANIFEST, "train.parquet", "validation.parquet"):
                (out / name).unlink(missing_ok=True)
            for path in sorted(new.iterdir(), key=lambda path: path.name == MANIFEST):
                path.replace(out / path.name)
    finally:
        os.close(folder)


def _write(path: Path, problems: Sequence[Problem], source: Source, template: str) -> None:
    from datasets import Dataset

    text = find_template(template).text
    Dataset.from_dict(
        {
            "prompt": [text.replace(PLACE, problem.row.problem) for problem in problems],
            "label": [_label(problem.row.gold, source) for problem in problems],
            "source": [source.name] * len(problems),
        }
    ).to_parquet(str(path))


def _label(gold: str, source: Source) -> str:
    label = parse_label(gold)
    fields: dict[str, Any] = {"answer": label.answer, "source": label.source or source.name}
    if label.alternatives:
        fields["alternatives"] = list(label.alternatives)
    if label.type != "math":
        fields["type"] = label.type
    return json.dumps(fields, ensure_ascii=False)
