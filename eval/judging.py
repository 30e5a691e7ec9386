"""The verdict on a response, by the training's verifier without its shaping."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from vespo_openrlhf import reward
from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.eval.tolerance import within
from vespo_openrlhf.reward.labels import parse_label
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.reward.query import split_query
from vespo_openrlhf.reward.scoring import judge_label

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
    response: str,
    gold: str,
    *,
    prompt: str = "",
    require_box: bool = True,
    marker: str = "",
    tolerance: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """The verdict as a record holds it: extracted, correct, reason, verifier.

    With a tolerance also `within_tolerance`: it is right by that alone.

    Args:
        response: what the model wrote.
        gold: a label as `reward.labels` reads it.
        prompt: as rendered; where it opens ``<think>``, the response starts inside it.
        require_box: see `eval.prompts.Template`.
        marker: see `eval.benchmarks.Benchmark.answer_marker`.
        tolerance: relative and absolute, see `eval.tolerance`.
    """
    text = split_query(prompt + response, prompt)
    if marker and "\\boxed" not in text and marker in text:
        answer = text.rpartition(marker)[2].strip().partition("\n")[0]
        text = f"{text}\n\\boxed{{{answer}}}"
    options = RewardOptions(require_box=require_box)
    label = parse_label(gold)
    verdict = judge_label(text, label, prompt, options)
    found: dict[str, Any] = {
        "extracted": verdict.extracted,
        "correct": verdict.correct,
        "reason": verdict.reason,
        "verifier": verifier_version(),
    }
    if tolerance is not None:
        near = verdict.reason == "wrong" and label.type == "math"
        near = near and within(label.golds, verdict.extracted or "", *tolerance)
        found["within_tolerance"] = near
        if near:
            found |= {"correct": True, "reason": "correct"}
    return found


def _verdict(record: Mapping[str, Any], how: Mapping[str, Any]) -> dict[str, Any]:
    """A record's verdict; `how` is its benchmark's, see `Benchmark.judged_by`."""
    relative = how.get("tolerance")
    return judge(
        record["response"],
        record["gold"],
        prompt=record["prompt"][record.get("own_prompt_at", 0) :],
        require_box=how.get("require_box", True),
        marker=how.get("answer_marker", ""),
        tolerance=None if relative is None else (relative, record.get("tolerance", 0.0)),
    )


def judge_all(
    records: Iterable[Mapping[str, Any]], how: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Records of one benchmark with their verdicts, judged several at a time, in their order."""

    def judged(record: Mapping[str, Any]) -> dict[str, Any]:
        return {**record, **_verdict(record, how)}

    with ThreadPoolExecutor(THREADS) as threads:
        yield from threads.map(judged, records)


class Judge:
    """Judges in a process of its own, which starts while the model loads.

    In the engine's process, judging would take the interpreter's lock from it at every step.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=context, initializer=_start_judge)
        self._pool.submit(verifier_version)

    def __call__(
        self, records: Sequence[Mapping[str, Any]], entries: Mapping[str, Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Records with their verdicts; `entries` are the manifest's, by benchmark.

        Raises:
            EvaluationError: the process has died.
        """
        how = [entries[record["benchmark"]] for record in records]
        try:
            verdicts = self._pool.submit(_judge_block, list(records), how).result()
        except BrokenProcessPool as error:
            raise EvaluationError("the process that judges has died") from error
        return [{**record, **verdict} for record, verdict in zip(records, verdicts, strict=True)]

    def close(self) -> None:
        """End the process."""
        self._pool.shutdown()


def _start_judge() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent has it judge what came back
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)  # it was killed, and would not have been told

    threading.Thread(target=follow, daemon=True).start()


def _judge_block(
    records: Sequence[Mapping[str, Any]], how: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(_verdict, records, how))
