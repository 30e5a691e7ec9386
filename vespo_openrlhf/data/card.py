"""The data card: Markdown with the front matter that the Hugging Face hub reads."""

from __future__ import annotations

from vespo_openrlhf.data.account import REASONS, Report
from vespo_openrlhf.data.sources import Source


def card(source: Source, report: Report) -> str:
    """What the data is, where it is from, what was dropped and why, and what was not checked."""
    kept = sum(report.splits.values())
    configs = "".join(
        f"      - split: {name}\n        path: {name}.parquet\n" for name in report.splits
    )
    lines = [
        "---",
        f"license: {source.licence}",
        "task_categories: [question-answering]",
        "tags: [math, reinforcement-learning]",
        "configs:",
        "  - config_name: default",
        "    data_files:",
        configs.rstrip("\n"),
        "---",
        "",
        f"# {source.name}, prepared for reinforcement learning with a verifier",
        "",
        f"From: {report.origin}" + (f" ({source.url})" if source.url else "") + ".",
        f"Licence of the source: {source.licence}.",
        "",
        *_not_checked(report),
        "| split | rows |",
        "| --- | ---: |",
        *(f"| {name} | {rows:,} |" for name, rows in report.splits.items()),
        "",
        "Columns: `prompt` (the user's message; the model's chat template is not in it), `label` "
        "(JSON with `answer` and `source`, and where they are known `alternatives` and `type`), "
        "`source`.",
        f"Template: `{report.settings['template']}`. A problem's split is decided by a hash of the "
        "problem itself, so it stays the same when the data grows." + _longest(report),
        "",
        "## What was dropped",
        "",
        f"Of {report.read:,} rows read, {kept:,} were kept. Each row is counted once, at the first "
        "step that drops it; `dropped.jsonl` holds them all but the duplicates.",
        "",
        "| why | rows |",
        "| --- | ---: |",
        *(f"| {REASONS[name]} | {count:,} |" for name, count in report.dropped.items()),
        "",
        "## Decontamination",
        "",
        "Problems are compared as sequences of words, numbers and signs, without LaTeX's layout, "
        f"punctuation and letter case. Two overlap if one holds {report.settings['overlap']:.0%} "
        f"or more of the runs of {report.settings['ngram']} tokens of the other. "
        f"{report.phrases:,} rows share some such run with a benchmark, but less, and were kept.",
        "",
        "| benchmark | its problems | rows dropped, exact | overlap | checked against |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for name, entry in report.checked.items():
        found = report.contaminated.get(name, {"exact": 0, "overlap": 0})
        lines.append(
            f"| {name} | {entry['problems']:,} | {found['exact']:,} | {found['overlap']:,} | "
            f"{entry['source']} |"
        )
    lines += [f"| **{name}** | | | | **not checked** |" for name in report.not_checked]
    lines += [
        "",
        "Golds were audited with the verifier that rewards: one that it cannot read, or that does "
        "not match itself in a box, was dropped.",
    ]
    return "\n".join(lines) + "\n"


def _longest(report: Report) -> str:
    longest = report.settings["max_prompt_tokens"]
    if longest is None:
        return ""
    return (
        f" Prompts have at most {longest:,} tokens of `{report.settings['tokenizer']}`, its chat "
        "template counted."
    )


def _not_checked(report: Report) -> list[str]:
    if not report.not_checked:
        return []
    names = ", ".join(report.not_checked)
    return [
        f"> **Warning:** not checked for contamination, because their data was not available: "
        f"{names}. A model trained on this may have seen their problems.",
        "",
    ]
