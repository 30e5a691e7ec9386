"""The outcome of a study where there is torch and nothing else. Standard library only."""

from __future__ import annotations

import math
from statistics import fmean, stdev
from typing import Any

from vespo_openrlhf.files import write_text
from vespo_openrlhf.study.presets import Study
from vespo_openrlhf.study.store import Store
from vespo_openrlhf.study.tables import CONDITIONS, markdown, percent, shown_conditions

_HEADINGS = (
    *("seeds", "start, %", "final, % (standard error)", "best, %"),
    *("mean abs. log W", "ESS", "seconds a run"),
)


def write_table(study: Study, store: Store) -> str:
    """Means over the finished runs of each loss under each condition, those of a tuning included;
    `table.md` of the store's folder has them, too.

    The final accuracy is the mean of a run's last evaluations, as elsewhere; the weights are means
    over all its updates.
    """
    cells = study.all_cells(store.final)
    missing = {cell.key(study.recipe) for cell in store.missing(cells)}
    runs: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for cell in cells:
        if cell.key(study.recipe) not in missing:
            runs.setdefault((*cell.condition(), cell.loss.label), []).append(store.load(cell))
    shown = shown_conditions([dict(zip(CONDITIONS, key, strict=False)) for key in runs])
    last = study.recipe.last_evaluations
    rows = []
    for key, results in runs.items():
        condition = dict(zip(CONDITIONS, key, strict=False))
        curves = [[accuracy for _, accuracy in r["evaluations"]] for r in results]
        finals = [fmean(curve[-last:]) for curve in curves]
        error = stdev(finals) / len(finals) ** 0.5 if len(finals) > 1 else math.nan
        weights = [
            fmean(value for r in results for value in r["updates"].get(name, [math.nan]))
            for name in ("log_w_abs_mean", "ess")
        ]
        rows.append(
            [
                key[-1],
                *(str(condition[name]) for name in shown),
                str(len(results)),
                percent(fmean(curve[0] for curve in curves)),
                percent(fmean(finals), error),
                percent(fmean(max(curve) for curve in curves)),
                *(f"{weight:.2f}" for weight in weights),
                f"{fmean(r['seconds'] for r in results):.0f}",
            ]
        )
    table = markdown(["loss", *shown.values(), *_HEADINGS], rows)
    write_text(store.folder / "table.md", table)
    return table
