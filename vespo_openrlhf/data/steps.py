"""The steps that drop rows: each accounts for what it drops, and gives back the rest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from vespo_openrlhf.data import lengths
from vespo_openrlhf.data.account import Dropped, Problem, Report
from vespo_openrlhf.data.overlap import Index, fingerprint, tokens
from vespo_openrlhf.data.sources import Row
from vespo_openrlhf.eval.benchmarks.templates import Renderer, find_template
from vespo_openrlhf.models import load_tokenizer
from vespo_openrlhf.reward import verify
from vespo_openrlhf.reward.labels import parse_label
from vespo_openrlhf.reward.tools.audit import audit

_AUDIT_BLOCK = 500


def progress(
    rows: Iterable[Any], what: str, total: int | None = None, unit: str = " rows"
) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(rows, desc=what, total=total, unit=unit)


def unique(rows: Iterable[Row], report: Report, dropped: Dropped) -> list[Problem]:
    """The first of equal problems; none where equal problems have different golds."""
    as_written: Counter[Row] = Counter(rows)  # DAPO-Math-17k has each row a hundred times
    report.read = as_written.total()
    first: dict[tuple[str, ...], Problem] = {}
    others: dict[tuple[str, ...], list[Row]] = {}
    for row, times in as_written.items():
        if not row.problem or not row.gold:
            reason = "no_gold" if row.problem else "no_problem"
            for _ in range(times):
                dropped.add(reason, row)
            continue
        report.dropped["duplicate"] += times - 1
        words = tokens(row.problem)
        if words in first:
            others.setdefault(words, []).append(row)
        else:
            first[words] = Problem(row, words)
    for words, rows_ in others.items():
        kept = first[words].row
        if all(_same_gold(row.gold, kept.gold) for row in rows_):
            report.dropped["duplicate"] += len(rows_)
            continue
        del first[words]
        for row in (kept, *rows_):
            dropped.add("conflict", row)
    return list(first.values())


def _same_gold(one: str, other: str) -> bool:
    """Whether the verifier, which will reward by either, takes them as equal."""
    if one == other:
        return True
    try:
        answer, golds = parse_label(one).answer, parse_label(other).golds
    except ValueError:  # no label: equal to nothing
        return False
    return verify(f"\\boxed{{{answer}}}", golds).correct


def clean(
    problems: Iterable[Problem], index: Index, report: Report, dropped: Dropped
) -> Iterator[Problem]:
    for problem in problems:
        match = index.find(problem.words)
        if match is None or match.kind == "phrase":
            report.phrases += match is not None
            yield problem
            continue
        counts = report.contaminated.setdefault(match.benchmark, {"exact": 0, "overlap": 0})
        counts[match.kind] += 1
        dropped.add(
            f"contaminated_{match.kind}",
            problem.row,
            benchmark=match.benchmark,
            id=match.id,
            share=round(match.share, 3),
        )


def sound(problems: Sequence[Problem], dropped: Dropped) -> Iterator[Problem]:
    """Those whose gold the verifier can read and takes as right."""
    from tqdm import tqdm

    with tqdm(total=len(problems), desc="auditing golds", unit=" rows") as bar:
        for start in range(0, len(problems), _AUDIT_BLOCK):
            block = problems[start : start + _AUDIT_BLOCK]
            found = audit([{"label": problem.row.gold} for problem in block], "label")
            unusable = {**dict.fromkeys(found["empty"], "empty"), **found["unusable"]}
            not_itself = set(found["not_itself"])
            for number, problem in enumerate(block):
                if number in unusable:
                    dropped.add("gold_unusable", problem.row, why=unusable[number])
                elif number in not_itself:
                    dropped.add("gold_not_itself", problem.row)
                else:
                    yield problem
            bar.update(len(block))


def short(
    problems: Sequence[Problem], template: str, tokenizer: str, limit: int, dropped: Dropped
) -> Iterator[Problem]:
    """Those whose prompt has as many tokens as asked for at most, as training will measure it."""
    try:
        loaded = load_tokenizer(tokenizer, None)
    except ValueError as error:
        raise ValueError(str(error).replace("--model", "--tokenizer", 1)) from error
    around = find_template(template)
    renderer = Renderer(loaded, raw=not loaded.chat_template)
    texts = (renderer.render(around, problem.row.problem).text for problem in problems)

    def encode(block: list[str]) -> list[list[int]]:
        ids: list[list[int]] = loaded(block, add_special_tokens=False)["input_ids"]
        return ids

    found = lengths.overlong(texts, len(problems), encode, limit)
    for number, problem in enumerate(problems):
        if number in found:
            dropped.add("overlong", problem.row, tokens=found[number])
        else:
            yield problem


def split(problems: Iterable[Problem], validation: float) -> dict[str, list[Problem]]:
    """A problem's own hash decides: it stays in its split whatever else the data holds."""
    splits: dict[str, list[Problem]] = {"train": [], "validation": []}
    for problem in problems:
        place = int(fingerprint(problem.words)[:13], 16) / 16**13  # within [0, 1)
        splits["validation" if place < validation else "train"].append(problem)
    return {name: part for name, part in splits.items() if part}
