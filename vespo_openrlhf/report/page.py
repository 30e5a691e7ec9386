"""The page of a run report."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from statistics import median
from typing import Any

from vespo_openrlhf import pages

from . import catalogue, charts
from .catalogue import Chart
from .derive import with_derived
from .runs import Run, Series, read_run

_SAMPLES_PER_RUN = 60
_SAMPLE_CHARACTERS = 6000
_OTHER_CHARTS = 80
_LISTED_RUNS = 4
_OVER_UPDATES = (
    "Drawn over the optimizer updates of the run; what is measured once a rollout batch stands at "
    "the batch's first."
)
_SHOWN_ELSEWHERE = re.compile(
    r"derived/|timing/|lag_|token_version/|.*/lag_\d|.*log_w_p\d|.*phi_p\d"
)


def write_report(folders: Sequence[Path], out: Path) -> None:
    """Write the page of one run, or of several side by side.

    Args:
        folders: run folders (`--run.dir`).
        out: the HTML file.

    Raises:
        ValueError: a folder holds no training metrics, or is given twice.
    """
    names = pages.distinct_names(folders)
    runs = [with_derived(read_run(f, n)) for f, n in zip(folders, names, strict=True)]
    build_page(runs).write(out)


def build_page(runs: Sequence[Run]) -> pages.Page:
    """The page, with the sections for which there is data."""
    several = len(runs) > 1
    if several:
        page = pages.Page("Training runs, side by side", _listed([run.name for run in runs]))
    else:
        folder = runs[0].folder.resolve()
        title = f"Training run {folder.parent.name}/{folder.name}"
        page = pages.Page(title, _subtitle(runs[0]))
    legend = [pages.legend([run.name for run in runs])] if several else []
    page.section("Summary", _summary(runs), *_warnings(runs))

    # What was measured in every update is drawn so, where all runs have it.
    over_updates = all(run.knows_its_updates for run in runs)
    batches, runs = runs, [run.over_updates() for run in runs] if over_updates else runs
    missing: list[Chart] = []
    used: set[str] = set()

    def drawn(group: Sequence[Chart]) -> list[pages.Block]:
        blocks = []
        for chart in group:
            block = charts.draw(chart, runs)
            if block is None:
                missing.append(chart)
            else:
                blocks.append(block)
            used.update(name for run in runs if (name := run.find(*chart.names)))
        return blocks

    page.section(
        "Learning",
        *legend,
        *drawn(catalogue.LEARNING),
        *_evaluations(runs),
        intro=_OVER_UPDATES if over_updates else "",
    )
    quantiles = [
        charts.draw_quantiles(
            "log W (nats)",
            "log_w",
            "Log importance weight of whole responses; 0 is on-policy.",
            runs,
        ),
        charts.draw_quantiles("φ(W)", "phi", "What the kernel makes of the weight.", runs),
    ]
    off_policy = [block for block in quantiles if block] + drawn(catalogue.OFF_POLICY)
    if off_policy:
        page.section(
            "Importance weights",
            *legend,
            *off_policy,
            intro="W is the probability of a whole response under the policy being trained over "
            "that under the policy that sampled it.",
        )
    titled = [_titled(run, several) for run in batches]
    by_lag = [charts.draw_by_lag(*chart, runs) for chart in catalogue.BY_LAG]
    lags = [block for run in titled if (block := charts.draw_lags(run))]
    lags += drawn(catalogue.LAG) + [block for block in by_lag if block]
    if lags:
        page.section("Lag", *legend, *lags)
    if played := drawn(_episodes(runs)):
        page.section("Turns and environments", *legend, *played)
    cluster = drawn(catalogue.CLUSTER) + [b for run in titled if (b := charts.draw_timings(run))]
    if cluster:
        page.section("Throughput", *legend, *cluster)
    samples = _samples(runs)
    if samples:
        page.section("Samples", *samples)
    page.section(
        "Settings",
        pages.settings_table({run.name: run.config for run in runs}),
    )
    page.section(
        "Versions", pages.settings_table({run.name: run.versions for run in runs}, "versions")
    )
    rest = _rest(runs, used)
    if rest or missing:
        page.section("Everything else", *rest, *_missing(missing))
    return page


def _episodes(runs: Sequence[Run]) -> list[Chart]:
    """The charts of episodes that show anything: a run without agents may log zeros."""
    prefix = catalogue.LOST.names[0]
    reasons = {
        name.removeprefix(prefix): None
        for run in runs
        for name in run.names
        if name.startswith(prefix)
    }
    lost = [
        replace(
            catalogue.LOST,
            title=f"{catalogue.LOST.title}: {reason.replace('_', ' ')}",
            names=(prefix + reason,),
        )
        for reason in reasons
    ]
    return [
        chart
        for chart in (*catalogue.EPISODES, *lost)
        if any(any(series.finite) for series in charts.find(chart, runs).values())
    ]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= _LISTED_RUNS else f"{len(names)} runs"


def _titled(run: Run, several: bool) -> Run:
    """The run under a name for titles: none where it stands alone."""
    return run if several else replace(run, name="")


def _subtitle(run: Run) -> str:
    config = run.config
    parts = [config.get("actor.policy_loss_type"), config.get("actor.model_name_or_path")]
    return ", ".join(str(part) for part in parts if part)


def _summary(runs: Sequence[Run]) -> pages.Block:
    figures = [_headline(run) for run in runs]
    if len(runs) == 1:
        return pages.tiles(figures[0])
    names = list(dict.fromkeys(name for figure in figures for name in figure))
    rows = [[name, *(_together(figure.get(name)) for figure in figures)] for name in names]
    return pages.table(
        ["", *(run.name for run in runs)],
        rows,
        "First and last: mean over a tenth of the batches.",
    )


def _together(value: tuple[str, str] | str | None) -> str | None:
    return f"{value[0]} ({value[1]})" if isinstance(value, tuple) else value


def _headline(run: Run) -> dict[str, tuple[str, str] | str]:
    figures: dict[str, tuple[str, str] | str] = {}

    def change(title: str, show: Any, *names: str) -> None:
        series = run.series(*names)
        if series and series.finite:
            first, last = series.ends()
            figures[title] = (show(last), f"from {show(first)}")

    change("training accuracy", _percent, "correct", "accuracy")
    change("reward", _short, *catalogue.LEARNING[0].names)
    change("response length", lambda x: f"{x:,.0f} tokens", *catalogue.LEARNING[2].names)
    ess = run.series("ess_ratio")
    if ess and ess.finite:
        low = _percent(min(ess.finite))
        figures["effective samples"] = (_percent(median(ess.finite)), f"at least {low}")
    lag = run.series("lag/max")
    if lag and lag.finite:
        figures["greatest lag"] = f"{max(lag.finite):.0f} updates"
    speed = run.series("scheduler/samples_per_second")
    if speed and speed.finite:
        figures["responses per second"] = (f"{median(speed.finite):,.3g}", "median")
    figures["rollout batches"] = f"{len(run.train):,}"
    if run.updates:
        figures["optimizer updates"] = f"{len(run.updates):,}"
    seconds = _seconds(run)
    if seconds:
        figures["wall time"] = str(timedelta(seconds=round(seconds)))
    return figures


def _seconds(run: Run) -> float:
    """From the start of the first batch to the end of the last."""
    times = [line["time"] for line in run.train if isinstance(line.get("time"), (int, float))]
    if not times:
        return 0.0
    first = run.series("timing/step_total")
    return times[-1] - times[0] + (first.finite[0] if first and first.finite else 0.0)


def _warnings(runs: Sequence[Run]) -> list[pages.Block]:
    notes = []
    for run in runs:
        name = f"{run.name}: " if len(runs) > 1 else ""
        if run.unreadable:
            notes.append(f"{name}{run.unreadable} lines of its metrics could not be read.")
        for metric, what in (
            ("num_dropped", "responses were left out for a rollout log-prob that is not finite"),
            (
                "num_skipped_updates",
                "updates were skipped: their loss or gradient is not finite",
            ),
        ):
            series = run.series(metric)
            if series and sum(series.finite) > 0:
                notes.append(f"{name}{sum(series.finite):.0f} {what}.")
    return [pages.paragraph("\n\n".join(notes))] if notes else []


def _evaluations(runs: Sequence[Run]) -> list[pages.Block]:
    names = list(dict.fromkeys(name for run in runs for name in run.evaluation_names()))
    blocks = []
    for name in names:
        found = {i: s for i, run in enumerate(runs) if (s := run.evaluation(name)) and s.finite}
        if found:
            blocks.append(charts.draw_series(name, found, runs))
    return blocks


def _samples(runs: Sequence[Run]) -> list[pages.Block]:
    problems, samples = [], []
    for index, run in enumerate(runs):
        for step, text, reward in run.samples(_SAMPLES_PER_RUN):
            problems.append(pages.Problem(f"batch {step}"))
            parts = pages.mark_answer(text, _boxed(text), _SAMPLE_CHARACTERS)
            samples.append(
                pages.Sample(
                    len(problems) - 1, index, reward > 0, f"reward {_short(reward)}", "", parts
                )
            )
    if not samples:
        return []
    note = (
        f"As the trainer logged them, prompt and response together, at most {_SAMPLES_PER_RUN} "
        f"of a run, evenly over it; of more than {_SAMPLE_CHARACTERS:,} characters the middle is "
        "left out. Right is a reward above 0. The last box is marked."
    )
    return [pages.paragraph(note), pages.sample_browser(problems, samples, [r.name for r in runs])]


def _boxed(text: str) -> str | None:
    """The last `\\boxed{...}` of the text, for the eye: what was judged the trainer keeps not."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth = 0
    for position in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[position], 0)
        if text[position] == "}" and depth == 0:
            return text[start : position + 1]
    return None


def _rest(runs: Sequence[Run], used: set[str]) -> list[pages.Block]:
    """Every other metric: a chart where it moves, a row of a table where it does not."""
    names = list(dict.fromkeys(name for run in runs for name in run.names))
    moving: dict[str, dict[int, Series]] = {}
    constant: dict[str, dict[int, float]] = {}
    for name in names:
        if name in used or _SHOWN_ELSEWHERE.match(name):
            continue
        found = {i: s for i, run in enumerate(runs) if (s := run.logged(name)) and s.finite}
        if any(len(set(series.finite)) > 1 for series in found.values()):
            moving[name] = found
        elif found:
            constant[name] = {i: series.finite[0] for i, series in found.items()}
    blocks = []
    if moving:
        drawn = [
            charts.draw_series(name, moving[name], runs) for name in sorted(moving)[:_OTHER_CHARTS]
        ]
        left = len(moving) - len(drawn)
        title = f"{len(drawn)} more metrics, under the names they were logged by" + (
            f" ({left} more are left out)" if left else ""
        )
        grid = pages.raw('<div class="figures">{}</div>'.format("".join(b.html for b in drawn)))
        blocks.append(pages.details(title, grid))
    if constant:
        rows = [
            [name, *(_short(values[i]) if i in values else None for i in range(len(runs)))]
            for name, values in sorted(constant.items())
        ]
        columns = range(1, len(runs) + 1)
        blocks.append(
            pages.details(
                f"{len(constant)} metrics that never changed",
                pages.table(["metric", *(run.name for run in runs)], rows, numeric=columns),
            )
        )
    return blocks


def _missing(missing: Sequence[Chart]) -> list[pages.Block]:
    if not missing:
        return []
    names = [chart.title + (f" ({chart.hint})" if chart.hint else "") for chart in missing]
    return [pages.paragraph(f"Not logged: {'; '.join(names)}.")]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}\N{NO-BREAK SPACE}%"


def _short(value: float) -> str:
    return "not finite" if math.isnan(value) else f"{value:.4g}"
