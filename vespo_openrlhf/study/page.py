"""What a study leaves: one self-contained page, figures, tables, and a JSON of the same."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from vespo_openrlhf.pages import Block, Page, details, facts, figure, paragraph, plotting, table
from vespo_openrlhf.study import figures
from vespo_openrlhf.study.analysis import Analysis, Row
from vespo_openrlhf.study.statistics import COLLAPSE_SHARE, LEVEL, LEVEL_SHARE
from vespo_openrlhf.study.tables import (
    agreement_table,
    claims_table,
    main_table,
    markdown,
    tuned_table,
    write_csv,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HOW_TO_READ = f"""\
Final accuracy is the mean of a run's last evaluations on held-out problems at temperature 1; \
intervals are 95 % Student's t over seeds, not corrected. Differences are paired: a seed fixes the \
warm start, the problems and the draws, and every loss runs on every seed. p is that of the paired \
t test; Holm's is corrected for the number of rivals under the condition, and a verdict other than \
open needs it below {LEVEL:g}, which takes for granted that no seed was added after a look at the \
others; the sign-flip test is exact, and with n seeds never below 2^(1 - n). A run has collapsed \
if it ends below {COLLAPSE_SHARE:.0%} of its own best level; the on-policy level is \
{LEVEL_SHARE:.0%} of what the on-policy run of the same seed and learning rate ends at. |log W| \
and ESS (effective sample size of W as a share of the mini-batch) are means over the last quarter \
of the updates."""


def write_report(analysis: Analysis, out: Path, provenance: Mapping[str, str]) -> dict[str, Any]:
    """Write report.html, figures/, *.csv, tables.md and summary.json into `out`.

    Args:
        analysis: of at least one finished run.
        out: the study's folder.
        provenance: command, commit and machine, for the page.

    Returns:
        what summary.json holds.
    """
    tables = study_tables(analysis)
    summary = {
        "preset": analysis.study.name,
        "missing_runs": analysis.missing,
        "provenance": dict(provenance),
        **{made.name: made.rows for made in tables},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    for name, rows in [*((made.name, made.rows) for made in tables), ("runs", _runs(analysis))]:
        if rows:
            write_csv(out / f"{name}.csv", rows)
    (out / "tables.md").write_text(_markdown(analysis, tables), encoding="utf-8")
    drawings = _draw(analysis, out / "figures")
    _page(analysis, tables, drawings, provenance).write(out / "report.html")
    return summary


@dataclass(frozen=True)
class StudyTable:
    """A table of the study; `rows` is empty where nothing of it was run.

    Attributes:
        name: of its CSV, and its key in summary.json.
        title: on the page.
        rows: with every digit.
        make: headings and cells from rows.
    """

    name: str
    title: str
    rows: list[Row]
    make: Callable[[Sequence[Row]], tuple[list[str], list[list[str]]]]


def study_tables(analysis: Analysis) -> list[StudyTable]:
    """All of them, in the order of the page."""
    return [
        StudyTable("claims", "Paired differences", analysis.claims(), claims_table),
        StudyTable("tuned", "Tuned", analysis.tuned(), tuned_table),
        StudyTable(
            "agreement", "Full stack beside light trainer", analysis.agreement(), agreement_table
        ),
        StudyTable("table", "All conditions", analysis.table(), main_table),
    ]


def machine() -> str:
    """The processor and the versions that decide the figures; no name of the machine."""
    import torch

    return (
        f"{_processor()}, {len(os.sched_getaffinity(0))} cores, one thread a run, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


# Updates at the end of a run over which its length is averaged.
_LAST = 16


def _runs(analysis: Analysis) -> list[dict[str, Any]]:
    return [
        {
            "task": analysis.study.recipe.task,
            "loss": run.cell.loss.label,
            "options": json.dumps(dict(run.cell.loss.options)),
            "N": run.cell.updates_per_batch,
            "lag": run.cell.lag,
            "learning_rate": run.cell.learning_rate,
            "mu_noise": run.cell.mu_noise,
            "engine_noise": run.cell.engine_noise,
            "sampler": run.cell.sampler_dtype,
            "seed": run.cell.seed,
            "start": run.summary.start,
            "best": run.summary.best,
            "final": run.summary.final,
            "collapsed": run.summary.collapsed,
            "updates_to_level": run.summary.reached,
            "last_length": round(fmean(run.result["updates"]["length"][-_LAST:]), 1),
            "mean_lag": run.result["lag"]["mean"],
            "skipped_updates": run.result["skipped"],
            "seconds": run.result["seconds"],
        }
        for run in analysis.runs()
    ]


def _markdown(analysis: Analysis, tables: Sequence[StudyTable]) -> str:
    parts = [f"# Study `{analysis.study.name}`", analysis.study.text, _HOW_TO_READ]
    for made in tables:
        if made.rows:
            parts.append(f"## {made.title}\n\n{markdown(*made.make(made.rows))}")
    return "\n\n".join(part.strip() for part in parts) + "\n"


@dataclass(frozen=True)
class _Drawing:
    """A figure of the study: its file name, and what the page says above and under it."""

    name: str
    title: str
    caption: str
    make: Callable[[], Figure]


def _drawings(analysis: Analysis) -> dict[str, list[_Drawing]]:
    """Section of the page -> its figures; none of a study that only tunes."""
    if not analysis.compared:
        return {}
    varying = figures.varying_axes(analysis.compared)
    accuracy = []
    for number, groups in enumerate(analysis.conditions().values(), start=1):
        where = figures.describe(groups[0], varying)
        accuracy.append(
            _Drawing(
                f"accuracy-{number}",
                f"Held-out accuracy over updates, {where}",
                "Mean over seeds, band of one standard error; dotted: on-policy.",
                partial(figures.accuracy_curves, analysis, groups),
            )
        )
    accuracy.append(
        _Drawing(
            "final",
            "Final accuracy",
            "Mean of the last evaluations, 95 % intervals over seeds; dotted: on-policy.",
            partial(figures.final_accuracy, analysis),
        )
    )
    fresh = "Stalest condition. A rollout batch begins fresh, with W near 1. Means of 8 updates."
    weights = [
        _Drawing(
            "log-w",
            "Mean |log W| over updates",
            fresh,
            partial(figures.weights_over_updates, analysis, "log_w_abs_mean"),
        ),
        _Drawing(
            "ess",
            "Effective sample size over updates",
            fresh,
            partial(figures.weights_over_updates, analysis, "ess"),
        ),
        _Drawing(
            "kernel",
            "The kernel, and the weights it met",
            "Above, phi at the published coefficients; below, the density of log W over all "
            "updates and seeds of VESPO's own runs.",
            partial(figures.kernel_and_data, analysis),
        ),
    ]
    return {"Accuracy": accuracy, "Importance weights": weights}


def _draw(analysis: Analysis, folder: Path) -> dict[str, list[Block]]:
    """Section -> its figures as blocks of the page; each as PNG and SVG in `folder` too."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    blocks: dict[str, list[Block]] = {}
    for section, drawings in _drawings(analysis).items():
        for drawing in drawings:
            # A fixed salt and no date: the same runs make the same files.
            with plotting(), mpl.rc_context({"svg.hashsalt": "study"}):
                drawn = drawing.make()
                block = figure(drawn, drawing.caption, title=drawing.title)
                blocks.setdefault(section, []).append(block)
                drawn.savefig(folder / f"{drawing.name}.svg", metadata={"Date": None})
                drawn.savefig(folder / f"{drawing.name}.png", dpi=120, facecolor="white")
    return blocks


def _page(
    analysis: Analysis,
    tables: Sequence[StudyTable],
    drawings: Mapping[str, list[Block]],
    provenance: Mapping[str, str],
) -> Page:
    study = analysis.study
    page = Page(f"Stability study: {study.name}", study.text)
    note = paragraph(_HOW_TO_READ)
    if analysis.missing:
        note = paragraph(f"Not finished: {analysis.missing} runs are missing.\n\n{_HOW_TO_READ}")
    if drawings:
        page.section("Accuracy", *drawings["Accuracy"])
    for made in tables:
        if made.rows:
            headings, cells = made.make(made.rows)
            # What was chosen is a sentence.
            first = 2 if made.make is tuned_table else 1
            numeric = range(first, len(headings))
            page.section(made.title, table(headings, cells, numeric=numeric))
    if drawings:
        page.section("Importance weights", *drawings["Importance weights"])
    recipe = {name: str(value) for name, value in vars(study.recipe).items()}
    page.section(
        "How it was made", note, facts(provenance), details("Recipe of every run", facts(recipe))
    )
    return page
