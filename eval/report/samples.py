"""Which generations a page holds: of each benchmark some, right and wrong, spread over problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vespo_openrlhf.pages import (
    Block,
    Part,
    Problem,
    Sample,
    mark_answer,
    paragraph,
    sample_browser,
)
from vespo_openrlhf.reward.labels import parse_label

from .folders import Evaluation, Generation

# Characters of responses in a page, all in all, and of a response at most and at least.
_PAGE_CHARACTERS = 20_000_000
_MOST_CHARACTERS, _LEAST_CHARACTERS = 6_000, 1_000
_PROMPT_CHARACTERS = 4_000


def choose(generations: Sequence[Generation], limit: int) -> list[Generation]:
    """At most `limit`: of every problem one right and one wrong first, then the rest.

    Where even that is too many, problems are left out evenly.
    """
    if len(generations) <= limit:
        return list(generations)
    first: dict[tuple[str, bool], Generation] = {}
    for generation in generations:
        first.setdefault((generation.id, generation.correct), generation)
    pairs = list(first.values())
    if len(pairs) >= limit:
        chosen = [pairs[index * len(pairs) // limit] for index in range(limit)]
    else:
        taken = set(first.values())
        rest = [generation for generation in generations if generation not in taken]
        missing = limit - len(pairs)
        chosen = pairs + [rest[index * len(rest) // missing] for index in range(missing)]
    return sorted(chosen, key=lambda generation: (generation.id, generation.repeat))


def browse(
    evaluations: Sequence[Evaluation],
    generations: Mapping[str, Sequence[Sequence[Generation]]],
    limit: int,
) -> list[Block]:
    """The browser, and what it leaves out.

    Args:
        evaluations: whose generations they are.
        generations: benchmark -> per evaluation, its generations.
        limit: generations per evaluation and benchmark.
    """
    chosen = {
        (benchmark, index): choose(found, limit)
        for benchmark, of_each in generations.items()
        for index, found in enumerate(of_each)
    }
    count = sum(map(len, chosen.values()))
    total = sum(len(found) for of_each in generations.values() for found in of_each)
    if not count:
        return [paragraph(f"None of {total:,} generations are in this page.")]
    room = min(_MOST_CHARACTERS, max(_LEAST_CHARACTERS, _PAGE_CHARACTERS // count))
    problems: dict[tuple[str, str], int] = {}
    shown: list[Problem] = []
    samples = []
    shortened = 0
    for (benchmark, index), picked in chosen.items():
        for record in evaluations[index].records(benchmark, picked):
            handle = (benchmark, str(record["id"]))
            if handle not in problems:
                problems[handle] = len(shown)
                prompt = _shorten(str(record.get("prompt") or ""))
                gold = _shorten(str(record.get("gold") or ""))
                shown.append(Problem(handle[1], benchmark, prompt, gold))
            before = _before(record, room)
            parts = mark_answer(str(record["response"]), record.get("extracted"), room)
            said = [parts, *(text for _, text in before)]
            shortened += any(isinstance(part, dict) and "cut" in part for t in said for part in t)
            samples.append(
                Sample(
                    problems[handle],
                    index,
                    bool(record["correct"]),
                    _verdict(record),
                    _note(record),
                    parts,
                    before,
                )
            )
    note = f"{count:,} of {total:,} generations are in this page"
    if count < total:
        note += (
            f": of each benchmark and model up to {limit:,}, one right and one wrong of every "
            "problem first"
        )
    note += (
        f". {shortened:,} of them lost their middle: about {room:,} characters of each are kept, "
        "both ends and what surrounds the answer."
        if shortened
        else ", each of them whole."
    )
    names = [evaluation.name for evaluation in evaluations]
    return [
        paragraph(f"{note} The answer that was judged is marked. `id:NAME` finds one problem."),
        sample_browser(shown, samples, names),
    ]


def _before(record: Mapping[str, Any], room: int) -> list[tuple[str, Sequence[Part]]]:
    """What an episode has before its last turn; the room is shared among all of its texts."""
    turns = record.get("turns") or []
    texts = [("environment", record.get("first_observation", ""))]
    for turn in turns[:-1]:
        texts += [("model", turn["action"]), ("environment", turn["observation"])]
    each = max(_LEAST_CHARACTERS // 2, room // max(1, len(texts)))
    return [(who, mark_answer(text, None, each)) for who, text in texts if text]


def _verdict(record: Mapping[str, object]) -> str:
    reason = record.get("reason") or ("correct" if record["correct"] else "wrong")
    return str(reason).replace("_", " ")


def _note(record: Mapping[str, Any]) -> str:
    parts = [f"repeat {record['repeat']}"]
    if record.get("tokens") is not None:
        parts.append(f"{record['tokens']:,} tokens")
    if turns := record.get("turns"):
        parts.append(f"{len(turns)} turns")
        parts.append(f"reward {record['agent']['reward']:.2f}")
    if record.get("finish_reason") == "length":
        parts.append("cut off")
    if record.get("within_tolerance"):
        parts.append("right by tolerance alone")
    if record.get("choice_order"):  # another repeat's letters are others
        parts.append(f"right was {parse_label(record['gold']).answer}")
    if record.get("error"):
        parts.append(str(record["error"]))
    return ", ".join(parts)


def _shorten(text: str) -> str:
    if len(text) <= _PROMPT_CHARACTERS:
        return text
    half = _PROMPT_CHARACTERS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"
