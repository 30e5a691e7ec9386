"""The verdict on a response, by the training's verifier without its shaping."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import reward
from reward.labels import parse_label
from reward.options import RewardOptions
from reward.query import split_query
from reward.scoring import judge_label

THREADS = 8


@functools.cache
def verifier_version() -> str:
    """Which verifier this is: a hash of its source, and the math-verify under it."""
    digest = hashlib.sha256()
    for file in sorted(Path(reward.__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    return f"reward-{digest.hexdigest()[:12]}+math-verify-{_installed('math-verify')}"


def _installed(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def judge(
    response: str, gold: str, *, prompt: str = "", require_box: bool = True, marker: str = ""
) -> dict[str, Any]:
    """The verdict as a record holds it: extracted, correct, reason, verifier.

    Args:
        response: what the model wrote.
        gold: a label as `reward.labels` reads it.
        prompt: as rendered; where it opens ``<think>``, the response starts inside it.
        require_box: see `eval.prompts.Template`.
        marker: see `eval.benchmarks.Benchmark.answer_marker`.
    """
    text = split_query(prompt + response, prompt)
    if marker and "\\boxed" not in text and marker in text:
        answer = text.rpartition(marker)[2].strip().partition("\n")[0]
        text = f"{text}\n\\boxed{{{answer}}}"
    options = RewardOptions(require_box=require_box)
    verdict = judge_label(text, parse_label(gold), prompt, options)
    return {
        "extracted": verdict.extracted,
        "correct": verdict.correct,
        "reason": verdict.reason,
        "verifier": verifier_version(),
    }


def judge_record(record: Mapping[str, Any], how: Mapping[str, Any]) -> dict[str, Any]:
    """A record with its verdict; `how` holds its benchmark's `require_box` and `answer_marker`."""
    verdict = judge(
        record["response"],
        record["gold"],
        prompt=record["prompt"],
        require_box=how.get("require_box", True),
        marker=how.get("answer_marker", ""),
    )
    return {**record, **verdict}


def judge_all(
    records: Iterable[Mapping[str, Any]], how: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """`judge_record` for many records of one benchmark, several at a time, in their order."""
    judged: Callable[[Mapping[str, Any]], dict[str, Any]] = functools.partial(judge_record, how=how)
    with ThreadPoolExecutor(THREADS) as threads:
        yield from threads.map(judged, records)
