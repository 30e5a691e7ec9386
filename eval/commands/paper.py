"""`vespo eval paper`: the accuracies that VESPO's paper reports, with yours below them."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vespo_openrlhf.eval.commands.presets import PRESETS
from vespo_openrlhf.eval.report.tables import columns, percent

if TYPE_CHECKING:
    from vespo_openrlhf.eval.report.folders import Evaluation

DESCRIPTION = """\
Print the published math accuracies (percent, avg@k), and below them those of your evaluations, with
what was measured otherwise than with `vespo eval run --preset vespo`.
"""
SOURCE = (
    "Published: arXiv 2602.10693v3, tables 1 to 3; k = 32 for AIME, 16 for AMC, 4 for MATH-500. "
    "Each is the best checkpoint of a run, chosen on these benchmarks, and judged by Math-Verify, "
    "which takes an answer without a box; the verifier here does not."
)
# Of an evaluation's settings those that change an accuracy, and that the published one has not.
_NOT_SET = (
    *("top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "stop"),
    *("system", "raw", "chat_template_options", "few_shot"),
)
BENCHMARKS = ("aime25", "aime24", "amc23", "math500")


@dataclass(frozen=True)
class Published:
    """A row of the paper.

    Attributes:
        table: its number there.
        model: that was trained.
        n: updates per rollout batch, the paper's gbs/mbs.
        method: as the paper writes it.
        accuracies: percent, of `BENCHMARKS`.
        average: percent, as printed there.
    """

    table: int
    model: str
    n: int
    method: str
    accuracies: tuple[float, float, float, float]
    average: float


LLAMA, DENSE, SPARSE = "Llama-3.2-3B-Instruct", "Qwen3-8B-Base", "Qwen3-30B-A3B-Base"
PUBLISHED = (
    Published(1, LLAMA, 8, "GRPO", (0.5, 14.5, 40.6, 51.6), 26.8),
    Published(1, LLAMA, 8, "GSPO", (0.2, 14.7, 43.9, 47.8), 26.7),
    Published(1, LLAMA, 8, "SAPO", (0.7, 12.2, 34.1, 51.0), 24.5),
    Published(1, LLAMA, 8, "VESPO", (0.6, 13.9, 47.3, 51.3), 28.3),
    Published(1, DENSE, 8, "GRPO", (27.4, 40.0, 74.5, 76.4), 54.6),
    Published(1, DENSE, 8, "GSPO", (28.8, 37.7, 80.8, 78.4), 56.4),
    Published(1, DENSE, 8, "SAPO", (36.7, 49.0, 80.0, 78.0), 60.9),
    Published(1, DENSE, 8, "VESPO", (33.5, 49.4, 82.2, 78.6), 60.9),
    Published(1, SPARSE, 8, "GRPO", (28.2, 40.0, 81.4, 78.3), 57.0),
    Published(1, SPARSE, 8, "GSPO", (25.1, 43.3, 83.0, 84.8), 59.1),
    Published(1, SPARSE, 8, "SAPO", (21.4, 27.9, 73.0, 84.6), 51.7),
    Published(3, SPARSE, 8, "TOPR", (16.5, 29.9, 66.6, 81.8), 48.7),
    Published(3, SPARSE, 8, "CISPO", (16.0, 25.5, 70.2, 83.0), 48.7),
    Published(3, SPARSE, 8, "BAPO", (34.2, 47.9, 88.9, 83.2), 63.6),
    Published(1, SPARSE, 8, "VESPO", (44.3, 59.6, 91.4, 84.8), 70.0),
    Published(2, SPARSE, 4, "GRPO", (22.1, 33.1, 76.4, 84.5), 54.0),
    Published(2, SPARSE, 4, "GSPO", (27.6, 43.3, 83.1, 85.7), 59.9),
    Published(2, SPARSE, 4, "SAPO", (38.4, 51.4, 85.2, 85.9), 65.2),
    Published(2, SPARSE, 4, "VESPO", (43.1, 60.3, 91.2, 85.4), 70.0),
    Published(2, SPARSE, 16, "GRPO", (20.3, 31.4, 71.4, 81.3), 51.1),
    Published(2, SPARSE, 16, "GSPO", (24.3, 41.6, 83.1, 84.2), 58.3),
    Published(2, SPARSE, 16, "SAPO", (19.6, 26.0, 72.2, 84.3), 50.5),
    Published(2, SPARSE, 16, "VESPO", (40.2, 53.2, 90.8, 84.8), 67.3),
    Published(2, SPARSE, 32, "GRPO", (21.8, 33.4, 73.4, 80.9), 52.4),
    Published(2, SPARSE, 32, "GSPO", (18.8, 27.3, 73.4, 80.6), 50.0),
    Published(2, SPARSE, 32, "SAPO", (12.4, 7.2, 29.5, 34.5), 20.9),
    Published(2, SPARSE, 32, "VESPO", (37.7, 51.4, 85.2, 83.7), 64.5),
    Published(2, SPARSE, 64, "GRPO", (14.6, 28.0, 69.4, 82.4), 48.6),
    Published(2, SPARSE, 64, "GSPO", (15.4, 24.1, 73.9, 76.8), 47.6),
    Published(2, SPARSE, 64, "SAPO", (3.3, 7.3, 23.8, 31.4), 16.5),
    Published(2, SPARSE, 64, "VESPO", (34.2, 46.2, 83.6, 83.3), 61.8),
)


def main(argv: Sequence[str]) -> int:
    """`vespo eval paper`.

    Returns:
        0.

    Raises:
        ValueError: a folder holds no finished evaluation.
    """
    parser = argparse.ArgumentParser(
        prog="vespo eval paper",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "folders", nargs="*", type=Path, metavar="DIR", help="the --out of an evaluation"
    )
    models = list(dict.fromkeys(row.model for row in PUBLISHED))
    parser.add_argument("--model", choices=models, help="of the paper's rows (default: all)")
    parser.add_argument(
        "--n",
        type=int,
        choices=sorted({row.n for row in PUBLISHED}),
        help="updates per rollout batch, of the paper's rows (default: all)",
    )
    options = parser.parse_args(argv)
    from vespo_openrlhf.eval.report.folders import read_folders

    evaluations = read_folders(options.folders) if options.folders else []
    rows = [
        row
        for row in PUBLISHED
        if options.model in (None, row.model) and options.n in (None, row.n)
    ]
    if not rows:
        published = sorted({row.n for row in PUBLISHED if row.model == options.model})
        numbers = ", ".join(map(str, published))
        parser.error(f"of {options.model} the paper has N = {numbers} alone, not {options.n}")
    print(text(rows, evaluations))
    return 0


def text(rows: Sequence[Published], evaluations: Sequence[Evaluation]) -> str:
    """The table, its source, and how the evaluations differ from the published one."""
    lines = [["model", "N", "method", *BENCHMARKS, "average"]]
    for row in rows:
        numbers = [f"{value:.1f}" for value in (*row.accuracies, row.average)]
        lines.append([row.model, str(row.n), row.method, *numbers])
    for evaluation in evaluations:
        accuracies = [evaluation.summary.get(name, {}).get("avg@k") for name in BENCHMARKS]
        known = [value for value in accuracies if value is not None]
        # Of other benchmarks, or of some of them, it would be another average.
        average = sum(known) / len(known) if len(known) == len(accuracies) else None
        cells = [percent(value) for value in (*accuracies, average)]
        lines.append([evaluation.name, "", "yours", *cells])
    parts = [columns(lines), SOURCE]
    for evaluation in evaluations:
        if found := list(differences(evaluation)):
            parts.append(f"{evaluation.name} is measured otherwise: {'; '.join(found)}.")
    return "\n".join(parts)


def differences(evaluation: Evaluation) -> Iterator[str]:
    """What an evaluation has otherwise than the preset, each with the published value."""
    from vespo_openrlhf.eval.benchmarks import parse
    from vespo_openrlhf.eval.benchmarks.templates import find_template
    from vespo_openrlhf.eval.options import Options

    preset = PRESETS["vespo"]
    settings = evaluation.manifest.get("settings", {})
    for name in ("temperature", "top_p", "max_tokens"):
        if settings.get(name) != preset.defaults[name]:
            yield f"{name} {settings.get(name)} (published: {preset.defaults[name]})"
    plain = Options().as_json()
    for name in _NOT_SET:
        if (value := settings.get(name, plain.get(name))) != plain.get(name):
            yield f"{name} {value} (published: not set)"
    entries = evaluation.manifest.get("benchmarks", {})
    for selection in parse(preset.defaults["benchmarks"]):
        name = selection.benchmark.name
        if name not in evaluation.summary:
            yield f"no {name}"
            continue
        entry, numbers = entries.get(name, {}), evaluation.summary[name]
        if numbers.get("repeats") != selection.repeats:
            yield f"{name} avg@{numbers.get('repeats')} (published: avg@{selection.repeats})"
        if "of" in numbers:
            yield f"{name} on its first {numbers['problems']} problems"
        if entry.get("template") != find_template(preset.templates[name]).text:
            yield f"{name} with another prompt (published: {preset.templates[name]})"
