"""The page of an evaluation report."""

from __future__ import annotations

from collections.abc import Sequence

from vespo_openrlhf import pages
from vespo_openrlhf.eval.report.tables import failed_note, percent, problem_count

from . import figures
from .folders import Evaluation, Generation, benchmarks_of
from .heatmap import easiest_first, heatmap, key
from .markdown import accuracy_row, detail_cells
from .samples import browse


def build_page(evaluations: Sequence[Evaluation], samples: int) -> pages.Page:
    """The page.

    Args:
        evaluations: side by side, in this order.
        samples: generations to leaf through, per evaluation and benchmark.
    """
    benchmarks = benchmarks_of(evaluations)
    generations = {b: [e.generations(b) for e in evaluations] for b in benchmarks}
    several = len(evaluations) > 1
    models = [str(evaluation.manifest.get("model", "")) for evaluation in evaluations]
    page = (
        pages.Page("Evaluations, side by side", ", ".join(e.name for e in evaluations))
        if several
        else pages.Page(f"Evaluation of {models[0] or evaluations[0].name}", ", ".join(benchmarks))
    )
    legend = [pages.legend([e.name for e in evaluations])] if several else []
    page.section(
        "Accuracy",
        *_warnings(evaluations),
        *legend,
        figures.draw_accuracy(evaluations, benchmarks),
        _accuracy_table(evaluations, benchmarks),
        _detail_table(evaluations, benchmarks),
    )
    curves = [figures.draw_pass_at_k(evaluations, benchmark) for benchmark in benchmarks]
    drawn = [block for block in curves if block]
    if drawn:
        page.section("More than one try", *legend, *drawn)
    lengths = [figures.draw_lengths(evaluations, b, generations[b]) for b in benchmarks]
    drawn = [block for block in lengths if block]
    if drawn:
        page.section("Response length", *legend, *drawn)
    turns = _turns_table(evaluations, benchmarks)
    if turns:
        page.section("Turns", turns)
    problems = _problems(evaluations, generations)
    if problems:
        page.section(
            "Problems",
            key(),
            *problems,
            intro="A column is a problem, a cell one of its repeats. Problems stand easiest "
            "first, in one order for all models. A click on a column shows its generations.",
        )
    if samples:
        page.section("Generations", *browse(evaluations, generations, samples))
    page.section("What was run", *_manifests(evaluations))
    return page


def _warnings(evaluations: Sequence[Evaluation]) -> list[pages.Block]:
    notes = []
    for evaluation in evaluations:
        if evaluation.unfinished:
            names = ", ".join(evaluation.unfinished)
            notes.append(f"{evaluation.name} is not finished on {names}, which is left out.")
        for benchmark, numbers in evaluation.summary.items():
            if "of" in numbers:
                notes.append(
                    f"{evaluation.name} is limited to the {problem_count(numbers)} problems of "
                    f"{benchmark}: its numbers are not those of the benchmark."
                )
            if numbers.get("unverified_rate"):
                notes.append(
                    f"{percent(numbers['unverified_rate'])} % of {evaluation.name} on {benchmark} "
                    "could not be judged, and count as wrong: `vespo eval score` judges again."
                )
            if numbers.get("error_rate"):
                notes.append(f"{evaluation.name} on {benchmark}: {failed_note(numbers)}.")
    return [pages.paragraph("\n\n".join(notes))] if notes else []


def _accuracy_table(evaluations: Sequence[Evaluation], benchmarks: Sequence[str]) -> pages.Block:
    rows = [accuracy_row(evaluations, benchmark) for benchmark in benchmarks]
    if len(benchmarks) > 1:
        rows.append(["average", "", *(percent(e.average) for e in evaluations)])
    return pages.table(
        ["benchmark", "problems", *(evaluation.name for evaluation in evaluations)],
        rows,
        "Accuracy in percent, [95 % interval] over problems, @ repeats of each problem.",
        numeric=range(1, 2 + len(evaluations)),
    )


def _detail_table(evaluations: Sequence[Evaluation], benchmarks: Sequence[str]) -> pages.Block:
    lines: list[tuple[list[object], dict[str, str]]] = []
    for benchmark in benchmarks:
        for evaluation in evaluations:
            if benchmark in evaluation.summary:
                heading: list[object] = [benchmark]
                if len(evaluations) > 1:
                    heading.append(evaluation.name)
                lines.append((heading, detail_cells(evaluation.summary[benchmark])))
    columns = list(dict.fromkeys(column for _, cells in lines for column in cells))
    headers = ["benchmark", *(["model"] if len(evaluations) > 1 else []), *columns]
    return pages.table(
        headers,
        [[*heading, *(cells.get(column) for column in columns)] for heading, cells in lines],
        "Shares in percent, ± standard error over problems; length in tokens: mean, median, 95 % "
        "quantile, mean of the right and of the wrong.",
        numeric=range(len(headers) - len(columns), len(headers)),
    )


def _turns_table(
    evaluations: Sequence[Evaluation], benchmarks: Sequence[str]
) -> pages.Block | None:
    """Accuracy by the number of turns; None where no agent was evaluated."""
    rows: list[list[object]] = []
    for benchmark in benchmarks:
        for evaluation in evaluations:
            agent = evaluation.summary.get(benchmark, {}).get("agent") or {"by_turns": {}}
            for turns, found in agent["by_turns"].items():
                accuracy = percent(found["avg"])
                rows.append([benchmark, evaluation.name, turns, found["episodes"], accuracy])
    if not rows:
        return None
    headers = ["benchmark", "model", "turns", "episodes", "accuracy"]
    note = "Accuracy in percent of the episodes with so many turns; those that failed have none."
    return pages.table(headers, rows, note, numeric=range(2, 5))


def _grouped(found: Sequence[Generation]) -> dict[str, list[Generation]]:
    by_problem: dict[str, list[Generation]] = {}
    for generation in found:
        by_problem.setdefault(generation.id, []).append(generation)
    return by_problem


def _problems(
    evaluations: Sequence[Evaluation], generations: dict[str, list[list[Generation]]]
) -> list[pages.Block]:
    """The heat maps, and their numbers for who cannot see them; nothing without records."""
    maps, tables = [], []
    for benchmark, of_each in generations.items():
        grouped = [_grouped(found) for found in of_each]
        order = easiest_first(grouped)
        if not order:
            continue
        for evaluation, by_problem in zip(evaluations, grouped, strict=True):
            if by_problem:
                title = benchmark + (f" · {evaluation.name}" if len(evaluations) > 1 else "")
                maps.append(heatmap(title, benchmark, order, by_problem))
        rows: list[list[object]] = []
        for problem in order:
            samples = [by_problem.get(problem, []) for by_problem in grouped]
            rows.append([problem, *(f"{sum(s.correct for s in g)} / {len(g)}" for g in samples)])
        headers = ["problem", *(evaluation.name for evaluation in evaluations)]
        listing = pages.table(headers, rows, numeric=range(1, len(headers)))
        tables.append(pages.details(f"{benchmark}: right answers of each problem", listing))
    return maps + tables


def _manifests(evaluations: Sequence[Evaluation]) -> list[pages.Block]:
    manifests = {e.name: e.manifest for e in evaluations}
    facts: dict[str, list[object]] = {
        fact: [manifest.get(fact) for manifest in manifests.values()]
        for fact in ("model", "revision", "created")
    }
    facts["folder"] = [evaluation.folder for evaluation in evaluations]
    if len(evaluations) > 1:
        rows = [[fact, *values] for fact, values in facts.items()]
        blocks = [pages.table(["", *manifests], rows)]
    else:
        blocks = [pages.facts({fact: values[0] for fact, values in facts.items()})]
    for what in ("settings", "versions"):
        found = {name: manifest.get(what) or {} for name, manifest in manifests.items()}
        blocks += [pages.raw(f"<h3>{what.capitalize()}</h3>"), pages.settings_table(found, what)]
    data = {name: manifest.get("benchmarks") or {} for name, manifest in manifests.items()}
    blocks += [pages.raw("<h3>Data</h3>"), pages.settings_table(data, "properties of the data")]
    return blocks
