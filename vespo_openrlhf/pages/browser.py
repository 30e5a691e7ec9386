"""Samples of a model to leaf through: filtered by where they come from, by verdict, by text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from markupsafe import Markup

from .blocks import Block, joined

#: A stretch of a response: text as it stands, the answer that was judged, or how many characters
#: are left out here.
Part = str | dict[str, Any]


@dataclass(frozen=True)
class Problem:
    """What was asked.

    Attributes:
        name: the reader's handle: a problem's id, a rollout batch.
        group: the benchmark; empty where there is but one kind.
        prompt, gold: the text of each; empty where it is not known.
    """

    name: str
    group: str = ""
    prompt: str = ""
    gold: str = ""


@dataclass(frozen=True)
class Sample:
    """A response and its verdict.

    Attributes:
        problem: index into the problems.
        run: index into the runs.
        right: the verdict.
        reason: the verdict in a word.
        note: anything short: which repeat, how many tokens, why it ended.
        parts: the response, as `mark_answer` cuts it; of an episode that of its last turn.
        before: of an episode what stands before its last turn: who speaks ("model" or
            "environment") and the text.
    """

    problem: int
    run: int
    right: bool
    reason: str
    note: str
    parts: Sequence[Part]
    before: Sequence[tuple[str, Sequence[Part]]] = ()


def mark_answer(response: str, answer: str | None, limit: int) -> list[Part]:
    """The response with its judged answer marked, and its middle left out if it is long.

    Args:
        response: the text.
        answer: marked where it stands last in a box, since that is what a verifier judges; where
            it is in none, where it stands last.
        limit: about how many characters to keep; half of them at either end, less what
            the surroundings of an answer in the middle take.
    """
    size = len(response)
    start = -1
    if answer:
        box = response.rfind(f"boxed{{{answer}}}")
        start = box + len("boxed{") if box >= 0 else response.rfind(answer)
    end = start + len(answer or "")
    if size <= limit:
        keep = [(0, size)]
    elif start < 0:
        keep = [(0, limit // 2), (size - limit // 2, size)]
    else:
        margin = limit // 8
        middle = min(end - start, limit // 4)  # an answer can be long as well
        ends = (limit - 2 * margin - middle) // 2
        keep = [
            (0, ends),
            (max(0, start - margin), start + middle + margin),
            (size - ends, size),
        ]
    parts: list[Part] = []
    shown = 0
    for first, last in keep:
        first = max(first, shown)
        last = min(last, size)
        if first >= last:
            continue
        if first > shown:
            parts.append({"cut": first - shown})
        low, high = max(first, min(start, last)), min(last, max(end, first))
        if start < 0 or low >= high:
            parts.append(response[first:last])
        else:
            marked = {"mark": response[low:high]}
            parts += [p for p in (response[first:low], marked, response[high:last]) if p]
        shown = last
    return parts


def sample_browser(
    problems: Sequence[Problem], samples: Sequence[Sample], runs: Sequence[str]
) -> Block:
    """A list of samples with filters; a filter with one choice is left out.

    What a filter hides is a matter of the page's script: without it there is a note instead.
    """
    data = {
        "runs": list(runs),
        "problems": [vars(problem) for problem in problems],
        "samples": [vars(sample) for sample in samples],
    }
    # "<" would let a response close the element.
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    wrong = sorted({sample.reason for sample in samples if not sample.right})
    controls = [
        _select("run", "run", [(str(i), run) for i, run in enumerate(runs)]),
        _select("group", "benchmark", [(g, g) for g in sorted({p.group for p in problems})]),
        _select("verdict", "verdict", [(v, v) for v in ("right", "wrong", *wrong)]),
    ]
    script = resources.files(__package__).joinpath("browser.js").read_text(encoding="utf-8")
    html = Markup(
        '<div class="browser"><noscript><p>Leafing through samples needs JavaScript.</p></noscript>'
        '<form class="controls" role="search">{}'
        '<label>text or problem<input type="search" name="text" autocomplete="off"></label></form>'
        '<p class="count" role="status"></p><ol></ol>'
        '<button type="button" hidden>show more</button>'
        '<script type="application/json">{}</script></div>'
    )
    return Block(html.format(Markup().join(controls), Markup(text)), script)


def _select(name: str, title: str, choices: Sequence[tuple[str, str]]) -> Markup:
    if len(choices) < 2:
        return Markup()
    options = joined('<option value="{}">{}</option>', choices)
    return Markup(
        '<label>{}<select name="{}"><option value="">all</option>{}</select></label>'
    ).format(title, name, options)
