"""The results of a run in the shape of lm-evaluation-harness's `results_*.json`.

For what reads that shape: its own table, leaderboards, trackers. The keys are those of its
`result_schema.py` (version 0.4.13); a benchmark is a task, avg@k its ``exact_match``, and the
other metrics stand beside it. What only a run of lm-eval has (git hash, environment) is left out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

from vespo_openrlhf.eval.options import MORE_SAMPLING

_CURVES = ("pass@k", "pass^k", "maj@k")


def results(manifest: Mapping[str, Any], summary: Mapping[str, Any]) -> dict[str, Any]:
    """The object, from a run's manifest and summary."""
    settings = manifest["settings"]
    entries = {name: manifest["benchmarks"][name] for name in summary["benchmarks"]}
    shots = settings.get("few_shot") or 0
    metrics = {name: _metrics(name, numbers) for name, numbers in summary["benchmarks"].items()}
    model, revision = manifest["model"], manifest["revision"]
    sampling = {n: settings[n] for n in ("top_p", *MORE_SAMPLING) if n in settings}
    sampling["max_gen_toks"] = settings["max_tokens"]
    return {
        "results": metrics,
        "group_subtasks": {},
        "configs": {
            name: {
                "task": name,
                "dataset_path": entry["source"],
                "doc_to_text": entry["template"],
                "output_type": "generate_until",
                "repeats": entry["repeats"],
                "num_fewshot": shots,
                "generation_kwargs": {
                    **sampling,
                    "until": settings["stop"],
                    "do_sample": entry["temperature"] > 0,
                    "temperature": entry["temperature"],
                },
                "metadata": {"version": entry["checksum"][:12]},
            }
            for name, entry in entries.items()
        },
        "versions": {name: entry["checksum"][:12] for name, entry in entries.items()},
        "n-shot": dict.fromkeys(entries, shots),
        "higher_is_better": {
            name: {
                key.partition(",")[0]: True for key in found if "," in key and "_stderr" not in key
            }
            for name, found in metrics.items()
        },
        "n-samples": {
            name: {"original": entry.get("of", entry["rows"]), "effective": entry["rows"]}
            for name, entry in entries.items()
        },
        "config": {
            "model": settings["engine"],
            "model_args": {"pretrained": model, "revision": revision},
            "model_sha": revision,
            "limit": settings.get("limit"),
            "random_seed": settings["seed"],
            "fewshot_seed": settings["seed"],
        },
        "date": time.mktime(time.strptime(manifest["created"][:19], "%Y-%m-%dT%H:%M:%S")),
        "transformers_version": manifest["versions"].get("transformers"),
        "task_hashes": {name: entry["checksum"] for name, entry in entries.items()},
        "model_source": settings["engine"],
        "model_name": model,
        "model_name_sanitized": re.sub(r'["<>:/|\\?*\[\]]+', "__", model),
        "system_instruction": settings["system"] or None,
        "fewshot_as_multiturn": bool(shots) and not settings.get("few_shot_text"),
    }


def _metrics(name: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """A task's metrics; lm-eval writes N/A for an error that it does not know."""
    error = numbers["standard_error"]
    found: dict[str, Any] = {
        "name": name,
        "alias": name,
        "sample_len": numbers["problems"],
        "exact_match,none": numbers["avg@k"],
        "exact_match_stderr,none": "N/A" if error is None else error,
    }
    for curve in _CURVES:
        for k, value in numbers[curve].items():
            found[f"{curve.removesuffix('k')}{k},none"] = value
            found[f"{curve.removesuffix('k')}{k}_stderr,none"] = "N/A"
    return found
