"""The primary comparisons of docs/study/protocol.md, worked out from its three tasks' runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from vespo_openrlhf.pages import SERIES, plotting
from vespo_openrlhf.pages.figures import MUTED
from vespo_openrlhf.study.claims.contrasts import (
    contrasts,
    contrasts_table,
    ends_table,
    finals,
    finals_table,
    full_stack_table,
    leads_table,
    ranked,
    shown,
)
from vespo_openrlhf.study.claims.outcomes import (
    TASKS,
    Outcome,
    Outcomes,
    check_planned,
    key_of,
    read_runs,
)
from vespo_openrlhf.study.presets import CONTROL, PRESETS
from vespo_openrlhf.study.tasks import get_task

OURS = ("VESPO", "pessimistic", "taper")
RIVALS = ("GRPO", "GSPO", "SAPO", "TOPR", "GSPO, wide")
PAIRS = (
    *((ours, rival) for ours in OURS for rival in RIVALS),
    *((ours, "VESPO") for ours in OURS[1:]),
)


def read_outcomes(path: Path, task: str) -> Outcomes:
    """How the runs of a runs.csv ended.

    The control, with which nothing is compared, may have been run on some of the seeds alone.

    Raises:
        ValueError: see `read_runs` and `check_planned`.
    """
    planned = PRESETS["primary"].at_rate(get_task(task).learning_rate).cells()
    runs = read_runs(path, task)
    check_planned(path, runs, planned, "primary", optional=CONTROL.label)
    found: dict[str, dict[int, Outcome]] = {}
    for cell in planned:
        if (outcome := runs.get(key_of(cell))) is not None:
            found.setdefault(cell.loss.label, {})[cell.seed] = outcome
    return found


def read_all(folder: Path) -> dict[str, Outcomes]:
    """The outcomes of every task.

    Args:
        folder: docs/study; its primary/TASK/runs.csv are read.

    Raises:
        ValueError: see `read_outcomes`.
    """
    return {task: read_outcomes(folder / "primary" / task / "runs.csv", task) for task in TASKS}


def tables(folder: Path) -> dict[str, str]:
    """Name of a marker on the page -> what belongs there, in Markdown; `folder` of `read_all`."""
    outcomes = read_all(folder)
    return {
        "finals": finals_table(outcomes, CONTROL.label),
        "leads": leads_table(contrasts(outcomes, PAIRS)),
    }


def all_contrasts(folder: Path) -> dict[str, str]:
    """The same for the page that has every comparison whole."""
    outcomes = read_all(folder)
    made = {
        f"ends-{task}": ends_table(of_task, CONTROL.label) for task, of_task in outcomes.items()
    }
    return made | {
        "contrasts": contrasts_table(contrasts(outcomes, PAIRS)),
        "full-stack": full_stack_table(folder / "primary" / "agreement.csv"),
    }


def draw(folder: Path, path: Path) -> None:
    """Final accuracy with its interval, as SVG: a panel a task, a row a loss, ours in blue.

    Its title holds the numbers that it was drawn from, see `drawn_from`.

    Raises:
        ValueError: see `read_outcomes`.
    """
    import matplotlib
    from matplotlib.figure import Figure

    outcomes = read_all(folder)
    losses = ranked(outcomes, CONTROL.label)
    with plotting(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "study"}):
        figure = Figure(figsize=(8.0, 3.0))
        panels = figure.subplots(1, len(outcomes), sharey=True)
        for axes, (task, of_task) in zip(panels, outcomes.items(), strict=True):
            for place, loss in enumerate(losses):
                found = finals(of_task, loss)
                colour = MUTED if loss == CONTROL.label else SERIES[loss not in OURS]
                axes.errorbar(
                    100 * found.mean, place, xerr=100 * found.half_width, fmt="o", color=colour,
                    markersize=5, capsize=3,
                )  # fmt: skip
            axes.set(title=task, xlim=(0, 102), xlabel="final accuracy, %")
        panels[0].set_yticks(range(len(losses)), losses)
        panels[0].invert_yaxis()
        metadata = {"Date": None, "Title": drawn_from(outcomes)}
        figure.savefig(path, metadata=metadata, transparent=False)


def drawn_from(outcomes: Mapping[str, Outcomes]) -> str:
    """What the figure shows, in words."""
    parts = [
        f"{task}: " + ", ".join(f"{loss} {shown(finals(of_task, loss))}" for loss in of_task)
        for task, of_task in outcomes.items()
    ]
    return "Final accuracy in per cent. " + "; ".join(parts)
