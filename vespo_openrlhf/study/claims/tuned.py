"""The tuned losses of docs/study/protocol.md, worked out from the runs of the preset `tuned`.

The choice is made again here, from the runs on the tuning seeds, by the rule that asked for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vespo_openrlhf.study.cells import Cell
from vespo_openrlhf.study.claims.contrasts import (
    contrasts,
    contrasts_table,
    finals_table,
    leads_table,
)
from vespo_openrlhf.study.claims.outcomes import (
    TASKS,
    Outcome,
    Outcomes,
    check_planned,
    key_of,
    read_runs,
)
from vespo_openrlhf.study.presets import MEASURED, PRESETS
from vespo_openrlhf.study.tables import markdown, percent
from vespo_openrlhf.study.tasks import get_task
from vespo_openrlhf.study.tuning import Choice

_OURS = ("VESPO", "pessimistic", "taper")
PAIRS = (
    *((ours, rival) for ours in _OURS for rival in ("GRPO", "GSPO", "SAPO", "TOPR")),
    *((ours, "VESPO") for ours in _OURS[1:]),
    *((measured.label, tuned) for measured, tuned in zip(MEASURED, _OURS, strict=False)),
)


@dataclass(frozen=True)
class Tuned:
    """What a task's tuning came to.

    Attributes:
        chosen: by family.
        outcomes: of the chosen and of the untuned, on the seeds of the report.
    """

    chosen: Mapping[str, Choice]
    outcomes: Outcomes


def read_tuned(path: Path, task: str) -> Tuned:
    """The choice and its report, from a runs.csv.

    Raises:
        ValueError: see `read_runs` and `check_planned`.
    """
    tuning = PRESETS["tuned"].at_rate(get_task(task).learning_rate).tuning
    assert tuning is not None
    runs = read_runs(path, task)

    def final(cell: Cell) -> float | None:
        return None if (known := runs.get(key_of(cell))) is None else known.final

    progress = tuning.progress(final)
    report = tuning.report(progress.chosen)
    check_planned(path, runs, (*progress.cells, *report), "tuned")
    reported = tuning.reported(progress.chosen).items()
    labels = {(setting.label, rate): label for label, (setting, rate) in reported}
    outcomes: dict[str, dict[int, Outcome]] = {}
    for cell in report:
        label = labels[cell.loss.label, cell.learning_rate]
        outcomes.setdefault(label, {})[cell.seed] = runs[key_of(cell)]
    return Tuned(progress.chosen, outcomes)


def tables(folder: Path) -> dict[str, str]:
    """Name of a marker on the page -> what belongs there, in Markdown: of the tasks that were run,
    and the comparisons once all were, as they are corrected together.

    Args:
        folder: docs/study; its tuned/TASK/runs.csv are read.

    Raises:
        ValueError: see `read_tuned`.
    """
    paths = {task: folder / "tuned" / task / "runs.csv" for task in TASKS}
    tuned = {task: read_tuned(path, task) for task, path in paths.items() if path.exists()}
    if not tuned:
        raise ValueError(f"cannot find a task's runs.csv in {folder / 'tuned'}")
    outcomes = {task: of_task.outcomes for task, of_task in tuned.items()}
    made = {"choices": _choices(tuned), "tuned-finals": finals_table(outcomes)}
    if len(tuned) < len(TASKS):
        return made
    found = contrasts(outcomes, PAIRS)
    return made | {"tuned-leads": leads_table(found), "tuned-contrasts": contrasts_table(found)}


def _choices(tuned: Mapping[str, Tuned]) -> str:
    rows = [
        [
            *(task, choice.setting.label, f"{choice.learning_rate:g}", str(choice.tried)),
            "yes" if choice.at_edge else "no",
            percent(choice.score),
        ]
        for task, of_task in tuned.items()
        for choice in of_task.chosen.values()
    ]
    headings = ("task", "chosen", "learning rate", "settings tried", "at an edge", "mean, %")
    return markdown(headings, rows)
