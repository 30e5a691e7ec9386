"""What a folder of records comes to: `summary.json`, and the same as lm-eval has it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vespo_openrlhf.eval.errors import EvaluationError
from vespo_openrlhf.eval.results.folder import RESULTS, Folder, slim, write_json
from vespo_openrlhf.eval.results.recorder import rates
from vespo_openrlhf.eval.running import lm_eval
from vespo_openrlhf.eval.running.plan import GREEDY


def summarise_folder(folder: Folder) -> dict[str, Any]:
    """The metrics of every benchmark in a folder whose records are complete.

    Raises:
        EvaluationError: none is.
    """
    from vespo_openrlhf.eval.metrics import summarise

    manifest = folder.manifest()
    assert manifest is not None
    speeds = rates(folder.timings)
    summaries: dict[str, Any] = {}
    for name, entry in manifest["benchmarks"].items():
        records = list(slim(folder.generations(name).read()))
        if len(records) == entry["rows"] * entry["repeats"]:
            summaries[name] = {**summarise(records), "tokens_per_second": speeds.get(name)}
            if "of" in entry:
                summaries[name]["of"] = entry["of"]
    if not summaries:
        raise EvaluationError(
            f"{folder.path} holds no complete benchmark yet: run the same command again"
        )
    entries = manifest["benchmarks"]
    averaged = [s for name, s in summaries.items() if not _is_greedy(name, entries)]
    averaged = averaged or list(summaries.values())
    errors = [s["standard_error"] for s in averaged]
    return {
        "model": manifest["model"],
        "benchmarks": summaries,
        "average": sum(s["avg@k"] for s in averaged) / len(averaged),
        # The benchmarks' problems are others, so their errors are independent.
        "average_standard_error": None if None in errors else math.hypot(*errors) / len(errors),
    }


def _is_greedy(name: str, entries: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether it is another benchmark once more, by --also-greedy."""
    older = name.endswith(GREEDY) and name.removesuffix(GREEDY) in entries  # they do not say
    return bool(entries[name].get("also_greedy", older))


def write_summary(folder: Folder) -> dict[str, Any]:
    """Summarise a folder and write `summary.json`, and the same as lm-eval has it.

    Raises:
        EvaluationError: no benchmark is complete, or the disk does not take it.
    """
    summary = summarise_folder(folder)
    folder.write_summary(summary)
    manifest = folder.manifest()
    assert manifest is not None
    write_json(folder.path / RESULTS, lm_eval.results(manifest, summary))
    return summary
