"""Verdicts without generation: on the records of a run, or on what another system wrote."""

from __future__ import annotations

import difflib
import sys
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vespo_openrlhf.eval.benchmarks import parse
from vespo_openrlhf.eval.benchmarks.loading import Loaded, load
from vespo_openrlhf.eval.benchmarks.templates import find_template
from vespo_openrlhf.eval.judging.verdicts import judge_all
from vespo_openrlhf.eval.results.folder import MANIFEST, Folder, slim
from vespo_openrlhf.eval.results.lines import Lines
from vespo_openrlhf.eval.running.summary import write_summary
from vespo_openrlhf.files import numbered_json_lines


def rescore(path: Path) -> dict[str, Any]:
    """Judge every record of a folder again, with today's verifier; nothing is generated.

    A benchmark's file is replaced once all of it is judged. A failed request stays one. A few
    dozen responses are in memory at a time.

    Returns:
        The summary, written to the folder too.

    Raises:
        ValueError: the folder holds no run, or is in use.
        EvaluationError: the disk does not take the result, or no benchmark is complete.
    """
    if not (path / MANIFEST).is_file():
        raise ValueError(f"{path} holds no {MANIFEST}, so it is not the folder of a run")
    folder = Folder(path)
    try:
        manifest = folder.manifest()
        assert manifest is not None
        for name, entry in manifest["benchmarks"].items():
            file = folder.generations(name)
            if not file.path.exists():  # interrupted before it came to this one
                continue
            changed = _judge_again(name, file, entry)
            if changed:
                print(f"{name}: {changed} verdicts changed", file=sys.stderr)
        summary = write_summary(folder)
    finally:
        folder.close()
    return summary


def _judge_again(name: str, file: Lines, entry: Mapping[str, Any]) -> int:
    """Put new verdicts into a benchmark's file; how many are not what they were."""
    from tqdm import tqdm

    before: deque[bool] = deque()  # of the records that are being judged
    changed = 0

    def old() -> Iterator[dict[str, Any]]:
        for record in file.read():
            before.append(record["correct"])
            yield record

    def new() -> Iterator[dict[str, Any]]:
        nonlocal changed
        for record in judge_all(old(), entry):
            changed += record["correct"] != before.popleft()
            yield record

    file.replace(tqdm(new(), total=entry["rows"] * entry["repeats"], desc=name))
    return changed


def score_responses(
    benchmark: str, responses: Path, data_dir: Path | None = None, template: str = ""
) -> dict[str, Any]:
    """Score responses that another system wrote.

    Args:
        benchmark: as in ``--benchmarks``, without repeats.
        responses: JSON lines with ``id`` and ``response``, and where they are known ``tokens``
            and ``finish_reason``; several lines of one id are its repeats. Letters of choices are
            those of `run` with seed 0.
        data_dir: see `eval.benchmarks.loading.load`.
        template: of the prompt they answer: it says whether an answer needs its box.

    Returns:
        The benchmark's summary, as in `summary.json`, its name as ``benchmark``, and as
        ``missing`` the problems without a response, which it does not cover.

    Raises:
        ValueError: lines that cannot be read, ids that are not in the data, or unequal repeats.
    """
    from tqdm import tqdm

    from vespo_openrlhf.eval.metrics import summarise

    selections = parse(benchmark)
    if len(selections) > 1 or selections[0].repeats:
        raise ValueError(f"--benchmark {benchmark}: give one name, without repeats")
    loaded = load(selections[0].benchmark, data_dir)
    count, answered = 0, set()
    for record in _read(responses, loaded):  # what cannot be read is named before the judging
        count += 1
        answered.add(record["id"])
    if not count:
        raise ValueError(f"--responses {responses} holds no responses")
    require_box = find_template(template or loaded.benchmark.template).require_box
    how = loaded.benchmark.judged_by(require_box)
    judged = judge_all(_read(responses, loaded), how)
    summary = summarise(slim(tqdm(judged, total=count, desc=loaded.benchmark.name)))
    missing = len(loaded.problems) - len(answered)
    if missing:
        print(
            f"WARNING: {responses} answers {len(loaded.problems) - missing} of the "
            f"{len(loaded.problems)} problems; the summary covers only these",
            file=sys.stderr,
        )
    return {
        "benchmark": loaded.benchmark.name,
        **summary,
        "missing": missing,
        "checksum": loaded.checksum,
    }


def _read(path: Path, loaded: Loaded) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"--responses {path}: there is no such file")
    problems = {problem.id: problem for problem in loaded.problems}
    repeats: dict[str, int] = {}
    for number, row in numbered_json_lines(path, appended=False):
        where = f"{path}, line {number}"
        if not {"id", "response"} <= row.keys():
            raise ValueError(f"{where}, must be an object with id and response")
        if not isinstance(row["response"], str):
            raise ValueError(f"{where}: the response must be a text")
        key = str(row["id"])
        if key not in problems:
            near = difflib.get_close_matches(key, problems, n=1)
            raise ValueError(
                f"{where}: {loaded.benchmark.name} has no problem {key!r}; its ids are like "
                f"{near[0] if near else loaded.problems[0].id!r}"
            )
        repeat = repeats.get(key, 0)
        repeats[key] = repeat + 1
        question = loaded.ask(problems[key], 0, repeat)
        yield {
            "id": key,
            "repeat": repeat,
            "prompt": "",
            "gold": question.gold,
            "response": row["response"],
            "tokens": row.get("tokens"),
            "finish_reason": row.get("finish_reason"),
            "tolerance": problems[key].tolerance,
            "choice_order": list(question.order),
        }
