"""After the run: is every prompt accounted for, was every resume right, did the bound hold?"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vespo_openrlhf.files import read_json_lines


@dataclass(frozen=True)
class Resume:
    """A resume as it went.

    Attributes:
        steps_before: rollout batches recorded when the run ended.
        step: what it went on from; None where it began anew.
    """

    steps_before: int
    step: int | None


def resumed_at(log: str) -> int | None:
    """The step that the log of one start says it went on from, if it does."""
    found = re.search(r"resumed at global step (\d+)", log)
    return int(found[1]) if found else None


def check_resumes(resumes: Sequence[Resume], save_every: int) -> list[str]:
    """What is wrong with them. A checkpoint may be torn by the end of the run, not two."""
    wrong = []
    for resume in resumes:
        least = resume.steps_before // save_every * save_every - save_every
        if not least <= (resume.step or 0) <= resume.steps_before:
            where = "begun anew" if resume.step is None else f"resumed at step {resume.step}"
            wrong.append(
                f"a run that had trained {resume.steps_before} batches, and saved every "
                f"{save_every}, was {where}"
            )
    return wrong


def check_records(run: Path, rows: int, bound: int) -> list[str]:
    """What is wrong with the records of a run that is over.

    Args:
        run: the run folder.
        rows: prompts it was given, for one epoch.
        bound: optimizer updates that a token's weights may be behind.
    """
    wrong = []
    samples = _read(run / "samples.jsonl")
    counts = Counter(group["row"] for group in samples)
    if twice := sorted(row for row, count in counts.items() if count > 1):
        wrong.append(f"{len(twice)} prompts were trained more than once: rows {twice[:10]}")
    prompts = run / "prompts.json"
    if prompts.exists():
        (epoch,) = json.loads(prompts.read_text())
        left = {name: epoch[name] for name in ("undrawn", "outstanding") if epoch[name]}
        accounted = epoch["trained"] + len(epoch["filtered"]) + len(epoch["abandoned"])
        if left or accounted != rows:
            wrong.append(f"{rows - accounted} of {rows} prompts are unaccounted for: {left}")
        if epoch["abandoned"]:
            wrong.append(f"{len(epoch['abandoned'])} prompts were given up: {epoch['abandoned']}")
        if len(counts) != epoch["trained"]:
            wrong.append(
                f"{epoch['trained']} prompts count as trained, {len(counts)} are in samples.jsonl"
            )
    else:
        wrong.append(f"{rows - len(counts)} of {rows} prompts are unaccounted for: no prompts.json")
    late = [lags for group in samples if not set(lags := _lags(group)) <= set(range(bound + 1))]
    if late:
        wrong.append(
            f"{len(late)} groups break the bound of {bound} updates: their tokens are "
            f"{min(map(min, late))} to {max(map(max, late))} behind"
        )
    steps = [line["step"] for line in _read(run / "metrics.jsonl") if line.get("kind") == "train"]
    if steps != list(range(1, len(steps) + 1)):
        wrong.append(f"the steps in metrics.jsonl do not follow each other: {steps}")
    updates = [line["update"] for line in _read(run / "updates.jsonl")]
    if updates != list(range(len(updates))):
        wrong.append(f"the updates in updates.jsonl do not follow each other: {updates}")
    return wrong


def _lags(group: dict[str, Any]) -> list[int]:
    """Of every span of tokens, in optimizer updates."""
    return [group["update"] - version for spans in group["spans"] for version, _ in spans]


def _read(path: Path) -> list[dict[str, Any]]:
    return read_json_lines(path) if path.exists() else []
