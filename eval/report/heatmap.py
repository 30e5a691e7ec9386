"""Every problem's repeats in one picture: a column per problem, a cell per generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from vespo_openrlhf.pages import Block, joined

from .folders import Generation

# Problems beside one another; more go on in a band below.
_COLUMNS = 50
_CELL_PIXELS = 13
# What a cell is called in `page.css`, in the order in which they are stacked, and in words.
KINDS = {
    "right": "right",
    "wrong": "wrong",
    "cut": "cut off at the token limit",
    "none": "no answer, or none that could be judged",
}


def kind(generation: Generation) -> str:
    """Which of `KINDS` a generation is."""
    if generation.correct:
        return "right"
    if generation.cut:
        return "cut"
    return "wrong" if generation.reason == "wrong" else "none"


def key() -> Block:
    """What the colours mean."""
    items = joined(
        '<li><svg class="cells" viewBox="0 0 1 1" aria-hidden="true">'
        '<path class="{}" d="M0 0h1v1h-1z"/></svg>{}</li>',
        KINDS.items(),
    )
    return Block(Markup('<ul class="key">{}</ul>').format(items))


def heatmap(
    title: str, benchmark: str, problems: Sequence[str], by_problem: Mapping[str, list[Generation]]
) -> Block:
    """The picture of one benchmark under one model.

    Args:
        title: above it.
        benchmark: whose generations a click on a column shows.
        problems: ids in the order of the columns.
        by_problem: id -> its generations; a problem may be missing.
    """
    height = max((len(samples) for samples in by_problem.values()), default=0)
    width = min(len(problems), _COLUMNS)
    bands = -(-len(problems) // _COLUMNS)
    # Half a cell between bands.
    total = bands * height + (bands - 1) * 0.5
    order = list(KINDS)
    cells: dict[str, list[str]] = {name: [] for name in KINDS}
    columns = []
    for index, problem in enumerate(problems):
        samples = by_problem.get(problem, [])
        x = index % _COLUMNS
        bottom = (index // _COLUMNS) * (height + 0.5) + height
        for row, name in enumerate(sorted(map(kind, samples), key=order.index)):
            cells[name].append(f"M{x} {bottom - row - 1:g}h.9v.9h-.9z")
        right = sum(sample.correct for sample in samples)
        columns.append((x, f"{bottom - height:g}", height, problem, benchmark, right, len(samples)))
    paths = joined('<path class="{}" d="{}"/>', ((n, "".join(d)) for n, d in cells.items() if d))
    hits = joined(
        '<rect class="hit" x="{0}" y="{1}" width=".9" height="{2}" data-problem="{3}" '
        'data-group="{4}"><title>{3}: {5} of {6} right</title></rect>',
        columns,
    )
    shares = [_share(by_problem.get(problem, [])) for problem in problems]
    always = sum(share == 1 for share in shares)
    never = sum(share == 0 for share in shares)
    caption = (
        f"{always} of {len(problems)} problems always right, {never} never, "
        f"{len(problems) - always - never} in between."
    )
    html = Markup(
        '<figure><h3>{0}</h3><svg class="cells" role="img" aria-label="{0}: {1}" '
        'viewBox="0 0 {2} {3:g}" style="max-width: {4}px">{5}{6}</svg>'
        "<figcaption>{1}</figcaption></figure>"
    ).format(title, caption, width, total, width * _CELL_PIXELS, paths, hits)
    return Block(html, is_figure=True)


def _share(samples: Sequence[Generation]) -> float:
    return sum(sample.correct for sample in samples) / len(samples) if samples else 0.0


def easiest_first(evaluations: Sequence[Mapping[str, list[Generation]]]) -> list[str]:
    """Problem ids by their mean accuracy over all evaluations, so that columns compare."""
    problems = list(dict.fromkeys(problem for by_problem in evaluations for problem in by_problem))

    def mean(problem: str) -> float:
        return sum(_share(by_problem.get(problem, [])) for by_problem in evaluations)

    return sorted(problems, key=lambda problem: (-mean(problem), problem))
