"""Summaries and plans as text for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vespo_openrlhf.eval.running.plan import Plan


def summary_table(summary: Mapping[str, Any]) -> str:
    """One line a benchmark: accuracy with its error and interval, pass@k, maj@k, what was cut."""
    rows = [
        ["benchmark", "problems", "accuracy", "95 % interval", "pass@k", "maj@k", "cut", "tokens"]
    ]
    for name, numbers in summary["benchmarks"].items():
        k = str(numbers["repeats"])
        error = numbers["standard_error"]
        low, high = numbers["interval"]
        length = numbers["length"]["mean"]
        rows.append(
            [
                name,
                problem_count(numbers),
                f"avg@{k} {percent(numbers['avg@k'])}"
                + (f" ± {percent(error)}" if error is not None else ""),
                f"{percent(low)} to {percent(high)}",
                percent(numbers["pass@k"][k]),
                percent(numbers["maj@k"][k]),
                percent(numbers["truncation_rate"]),
                "–" if length is None else f"{length:.0f}",
            ]
        )
    lines = [columns(rows)]
    if len(summary["benchmarks"]) > 1:
        error = summary.get("average_standard_error")
        spread = "" if error is None else f" ± {percent(error)}"
        lines.append(f"average accuracy {percent(summary['average'])}{spread} %")
    for name, numbers in summary["benchmarks"].items():
        if numbers["unverified_rate"]:
            lines.append(
                f"WARNING: {percent(numbers['unverified_rate'])} % of {name} could not be judged "
                "(the verifier was busy or gone) and counts as wrong: vespo eval score DIR"
            )
        if numbers.get("tolerance_rate"):
            lines.append(
                f"{percent(numbers['tolerance_rate'])} % of {name} is right by the benchmark's "
                "tolerance for numbers alone"
            )
        if agent := numbers.get("agent"):
            lines.append(f"{name}: {agent_line(agent)}")
        if numbers["error_rate"]:
            lines.append(f"WARNING: {name}: {failed_note(numbers)}: --retry-errors asks them again")
    return "\n".join(lines)


def problem_count(numbers: Mapping[str, Any]) -> str:
    """How many problems a summary covers: ``500``; with ``--limit``, ``first 20 of 500``."""
    count = numbers["problems"]
    return f"first {count} of {numbers['of']}" if "of" in numbers else str(count)


def agent_line(agent: Mapping[str, Any]) -> str:
    """What the episodes of a benchmark were like, in a line."""
    means = {"turns": agent["turns"], "reward": agent["reward"], **agent["logs"]}
    by_turns = [
        f"{turns}: {percent(found['avg'])} % of {found['episodes']}"
        for turns, found in agent["by_turns"].items()
    ]
    return (
        f"per episode {', '.join(f'{name} {mean:.2f}' for name, mean in means.items())}; "
        f"right by number of turns {', '.join(by_turns)}"
    )


def failed_count(summary: Mapping[str, Any]) -> int:
    """How many requests of a whole summary failed."""
    return sum(
        round(numbers["error_rate"] * numbers["problems"] * numbers["repeats"])
        for numbers in summary["benchmarks"].values()
    )


def failed_note(numbers: Mapping[str, Any]) -> str:
    """What the failed requests of a benchmark mean for its accuracy."""
    least, share = numbers["avg@k"], numbers["error_rate"]
    return (
        f"{percent(share)} % of the requests failed and count as wrong, so its accuracy is between "
        f"{percent(least)} and {percent(least + share)}"
    )


def percent(share: float | None) -> str:
    """A share of 1 in percent, with one digit."""
    return "–" if share is None else f"{100 * share:.1f}"


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows with their columns aligned, numbers to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def plan_text(planned: Plan, missing: int) -> str:
    """What a dry run prints: how much would be generated, and an example of a prompt."""
    longest = planned.manifest["settings"]["max_tokens"]
    rows = [["benchmark", "problems", "repeats", "responses", "tokens at most", "source"]]
    for task in planned.tasks:
        problems = len(task.loaded.problems)
        count = problems * task.repeats
        of = {"of": task.loaded.whole} if problems < task.loaded.whole else {}
        rows.append(
            [
                task.name,
                problem_count({"problems": problems, **of}),
                str(task.repeats),
                str(count),
                f"{count * longest:,}",
                task.loaded.source,
            ]
        )
    lines = [columns(rows), ""]
    lines.append(
        f"{missing} of {len(planned.requests)} responses are to be generated: at most "
        f"{missing * longest:,} tokens"
        + (" in each of an agent's turns" if "agent" in planned.manifest["settings"] else "")
    )
    if planned.tokenizer is not None:
        texts = {request.prompt.text for request in planned.requests}
        total = sum(
            len(planned.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts
        )
        lines.append(f"prompts: {total:,} tokens in {len(texts)}")
    lines += ["first prompt:", "", planned.requests[0].prompt.text]
    return "\n".join(lines)
