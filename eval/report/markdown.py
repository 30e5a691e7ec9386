"""Tables for a paper or an issue, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vespo_openrlhf.eval.options import MORE_SAMPLING
from vespo_openrlhf.eval.report.tables import percent, problem_count

from .folders import Evaluation, benchmarks_of

_SETTINGS = ("temperature", "top_p", *MORE_SAMPLING, "max_tokens", "seed", "few_shot")


def tables(evaluations: Sequence[Evaluation]) -> str:
    """Accuracy of all, then what else was measured of each, then what was run."""
    benchmarks = benchmarks_of(evaluations)
    header = ["benchmark", "problems", *(evaluation.name for evaluation in evaluations)]
    rows = [accuracy_row(evaluations, benchmark) for benchmark in benchmarks]
    if len(benchmarks) > 1:
        averages = [percent(evaluation.average) for evaluation in evaluations]
        rows.append(["average", "", *averages])
    parts = [
        _table(header, rows),
        "Accuracy in percent: mean over k repeats (avg@k), with the 95 % interval over problems.",
        *(_details(evaluation) for evaluation in evaluations),
        *(_provenance(evaluation) for evaluation in evaluations),
    ]
    return "\n\n".join(parts) + "\n"


def accuracy_row(evaluations: Sequence[Evaluation], benchmark: str) -> list[str]:
    """The benchmark, its problems, and each accuracy with its interval and its k."""
    known = [e.summary[benchmark] for e in evaluations if benchmark in e.summary]
    sizes = dict.fromkeys(map(problem_count, sorted(known, key=lambda n: int(n["problems"]))))
    cells = [
        accuracy(evaluation.summary[benchmark]) if benchmark in evaluation.summary else "–"
        for evaluation in evaluations
    ]
    return [benchmark, " / ".join(sizes), *cells]


def accuracy(numbers: dict[str, Any]) -> str:
    """`61.2 [57.0, 65.3] @4`: percent, 95 % interval, repeats."""
    low, high = numbers["interval"]
    interval = f"[{percent(low)}, {percent(high)}]"
    return f"{percent(numbers['avg@k'])} {interval} @{numbers['repeats']}"


def detail_cells(numbers: dict[str, Any]) -> dict[str, str]:
    """What else was measured, by its heading; shares in percent, lengths in tokens."""
    k = str(numbers["repeats"])
    length = numbers.get("length") or {}
    error = numbers.get("standard_error")
    speed = numbers.get("tokens_per_second")
    cells = {
        "avg@k": percent(numbers["avg@k"]) + (f" ± {percent(error)}" if error is not None else ""),
        "k": k,
        "pass@k": percent((numbers.get("pass@k") or {}).get(k)),
        "maj@k": percent((numbers.get("maj@k") or {}).get(k)),
        "pass^k": percent((numbers.get("pass^k") or {}).get(k)),
        "answer found": percent(numbers.get("extraction_rate")),
        "cut off": percent(numbers.get("truncation_rate")),
        "timed out": percent(numbers.get("timeout_rate")),
        "length": _tokens(length.get("mean")),
        "median": _tokens(length.get("median")),
        "p95": _tokens(length.get("p95")),
        "right": _tokens(length.get("mean_correct")),
        "wrong": _tokens(length.get("mean_wrong")),
    }
    if numbers.get("tolerance_rate") is not None:
        cells["by tolerance"] = percent(numbers["tolerance_rate"])
    if agent := numbers.get("agent"):
        cells |= {"turns": f"{agent['turns']:.2f}", "reward": f"{agent['reward']:.2f}"}
        cells |= {f"{name} per episode": f"{mean:.2f}" for name, mean in agent["logs"].items()}
    if numbers.get("error_rate"):
        cells["failed"] = percent(numbers["error_rate"])
    if speed is not None:
        cells["tokens/s"] = _tokens(speed)
    return cells


def _details(evaluation: Evaluation) -> str:
    cells = {name: detail_cells(numbers) for name, numbers in evaluation.summary.items()}
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    rows = [[name, *(row.get(column, "–") for column in columns)] for name, row in cells.items()]
    return f"**{_plain(evaluation.name)}**\n\n" + _table(["benchmark", *columns], rows)


def _provenance(evaluation: Evaluation) -> str:
    manifest = evaluation.manifest
    settings = manifest.get("settings") or {}
    model = str(manifest.get("model", "unknown model"))
    parts = [f"model `{model}`"]
    if manifest.get("revision"):
        parts[0] += f" at `{manifest['revision']}`"
    parts += [f"{name} {settings[name]}" for name in _SETTINGS if settings.get(name) is not None]
    versions = manifest.get("versions") or {}
    parts += [f"{name} {version}" for name, version in versions.items()]
    return f"{_plain(evaluation.name)}: {', '.join(parts)}."


def _tokens(count: float | None) -> str:
    return "–" if count is None else f"{count:,.0f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    alignment = [":--", *["--:"] * (len(header) - 1)]
    lines = [[_plain(cell) for cell in header], alignment]
    lines += [[_plain(cell) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Text that Markdown takes for text, in a table too."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("_", "\\_").replace("*", "\\*")
