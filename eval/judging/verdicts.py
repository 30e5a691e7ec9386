"""The verdict on a response, by the training's verifier without its shaping."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import multiprocessing
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from vespo_openrlhf import reward
from vespo_openrlhf.eval.engines import FAILED
from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.eval.judging.tolerance import within
from vespo_openrlhf.reward.labels import parse_label
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.reward.reading.formats import final_text
from vespo_openrlhf.reward.reading.query import split_query
from vespo_openrlhf.reward.scoring import judge_label
from vespo_openrlhf.workers import end_with_parent

THREADS = 8
#: What decides verdicts under the verifier's own source.
LIBRARIES = ("math-verify", "sympy", "latex2sympy2_extended", "pebble")
_AHEAD = 4 * THREADS
_END_CHARACTERS = 80


@functools.cache
def verifier_version() -> str:
    """Which verifier this is: a hash of its source, and the versions of the libraries under it."""
    source = source_hash(Path(reward.__file__).parent)
    return "+".join([f"reward-{source}", *(f"{name}-{_installed(name)}" for name in LIBRARIES)])


def source_hash(folder: Path) -> str:
    """Twelve hex digits of the Python files of a folder and those below it, names and contents."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()[:12]


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
        require_box: see `eval.benchmarks.templates.Template`.
        marker: see `eval.benchmarks.Benchmark.answer_marker`.
        tolerance: relative and absolute, see `eval.judging.tolerance`.
    """
    text = split_query(prompt + response, prompt)
    # What was said while thinking is no answer, be it in a box or behind the marker.
    final = final_text(text) if marker else None
    if final is not None and "\\boxed" not in final and marker in final:
        answer = final.rpartition(marker)[2].strip().partition("\n")[0]
        text = f"{final}\n\\boxed{{{answer}}}"
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
    if record.get("finish_reason") == FAILED:  # there is no response to judge
        version = verifier_version()
        return {"extracted": None, "correct": False, "reason": FAILED, "verifier": version}
    relative = how.get("tolerance")
    prompt = record["prompt"][record.get("own_prompt_at", 0) :]
    if turns := record.get("turns"):
        # Of what the last turn has read, its end: whether it opens the thinking. A box that is
        # copied from the environment is an answer.
        read = turns[-2]["observation"] if len(turns) > 1 else record.get("first_observation", "")
        prompt += read[-_END_CHARACTERS:]
    return judge(
        record["response"],
        record["gold"],
        prompt=prompt,
        require_box=how.get("require_box", True),
        marker=how.get("answer_marker", ""),
        tolerance=None if relative is None else (relative, record.get("tolerance", 0.0)),
    )


def judge_all(
    records: Iterable[Mapping[str, Any]], how: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Records of one benchmark with their verdicts, judged several at a time, in their order.

    Of `records` no more than a few dozen are taken ahead of those that have been given back.
    """

    def judged(record: Mapping[str, Any]) -> dict[str, Any]:
        return {**record, **_verdict(record, how)}

    waiting: deque[Future[dict[str, Any]]] = deque()
    with ThreadPoolExecutor(THREADS) as threads:
        for record in records:
            waiting.append(threads.submit(judged, record))
            if len(waiting) >= _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


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
    for signum in (signal.SIGINT, signal.SIGTERM):  # the parent has it judge what came back
        signal.signal(signum, signal.SIG_IGN)
    end_with_parent()


def _judge_block(
    records: Sequence[Mapping[str, Any]], how: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(_verdict, records, how))
