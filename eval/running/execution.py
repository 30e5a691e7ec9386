"""A whole evaluation in its folder: what is missing is generated, and all of it summarised."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from vespo_openrlhf.eval.engines import FAILED, Request
from vespo_openrlhf.eval.judging.verdicts import Judge
from vespo_openrlhf.eval.results.folder import Folder
from vespo_openrlhf.eval.running.generation import generate, start_engine
from vespo_openrlhf.eval.running.plan import Plan, Run, plan, prompt_hash
from vespo_openrlhf.eval.running.summary import write_summary


def execute(
    run: Run, out: Path, *, fresh: bool = False, retry_errors: bool = False
) -> dict[str, Any]:
    """Everything from the plan to `summary.json`; resumes what an earlier run left in `out`.

    Args:
        run: what is run.
        out: its folder.
        fresh: delete what is there first.
        retry_errors: ask the requests again that failed before.

    Returns:
        The summary. Its `error_rate`s are above 0 where requests failed.

    Raises:
        ValueError: something the user can mend; nothing was generated.
        EvaluationError: an engine, an endpoint or the disk gave way; what came back is recorded.
    """
    planned = plan(run)
    folder = Folder(out)
    try:
        folder.begin(planned.manifest, fresh=fresh)
        requests = missing(planned, folder, retry_errors=retry_errors)
        if retry_errors:
            _drop_failed(planned, folder)
        if requests:
            done = len(planned.requests) - len(requests)
            if done:
                print(f"{done} of {len(planned.requests)} responses found", file=sys.stderr)
            with contextlib.closing(Judge()) as judge:
                engine = start_engine(run)
                with contextlib.closing(engine):
                    generate(engine, requests, planned, folder, judge, done=done)
        summary = write_summary(folder)
    finally:
        folder.close()
    return summary


def missing(planned: Plan, folder: Folder, *, retry_errors: bool = False) -> list[Request]:
    """The requests without a record, or with `retry_errors` without a response.

    Raises:
        ValueError: a record's prompt is not the one that would be sent now.
    """
    hashes = {text: prompt_hash(text) for text in {r.prompt.text for r in planned.requests}}
    done: dict[tuple[str, str, int], str] = {}
    for task in planned.tasks:
        for record in folder.generations(task.name).read():
            if retry_errors and record.get("finish_reason") == FAILED:
                continue
            done[task.name, record["id"], record["repeat"]] = record["prompt_hash"]
    left = []
    for request in planned.requests:
        recorded = done.get((request.benchmark, request.id, request.repeat))
        if recorded is None:
            left.append(request)
        elif recorded != hashes[request.prompt.text]:
            raise ValueError(
                f"{folder.path}: {request.benchmark} {request.id} was asked with another prompt; "
                "records of both must not mix: take another --out, or --fresh to delete them"
            )
    return left


def left_to_do(planned: Plan, out: Path, *, fresh: bool, retry_errors: bool = False) -> int:
    """How many responses a run would generate; looks only, also while another process writes.

    Raises:
        ValueError: the folder's records were made with other settings.
    """
    if fresh:
        return len(planned.requests)
    folder = Folder(out, look=True)
    folder.check(planned.manifest)
    return len(missing(planned, folder, retry_errors=retry_errors))


def _drop_failed(planned: Plan, folder: Folder) -> None:
    for task in planned.tasks:
        file = folder.generations(task.name)
        if any(record.get("finish_reason") == FAILED for record in file.read()):
            file.replace(r for r in file.read() if r.get("finish_reason") != FAILED)
