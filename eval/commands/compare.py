"""`vespo eval compare A B [C ...]`: are these runs different, or is it chance?"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from vespo_openrlhf.eval.report.comparison import Accuracy, Comparison, Difference, compare

_SHOWN = 5


def main(argv: Sequence[str]) -> int:
    """Print the comparison.

    Returns:
        0.

    Raises:
        ValueError: see `compare`.
    """
    parser = argparse.ArgumentParser(
        prog="vespo eval compare",
        description="Compare each later run with the first one, paired by problem: difference with "
        "its 95%% bootstrap interval, exact permutation test (McNemar's too with one sample per "
        "problem; Holm's adjustment with several comparisons), and the problems that flipped. The "
        "test takes as many samples of each run as the shorter one has.",
    )
    parser.add_argument("runs", nargs="+", type=Path, help="two or more --out folders of eval run")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="a table for a paper")
    form.add_argument("--json", action="store_true", help="everything, with all flips")
    parser.add_argument(
        "--flips", type=int, default=_SHOWN, help="flipped problems to name (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    comparison = compare(arguments.runs)
    if arguments.json:
        print(json.dumps(asdict(comparison), indent=2))
    elif arguments.markdown:
        print(markdown(comparison), end="")
    else:
        print(text(comparison, arguments.flips), end="")
    return 0


def text(comparison: Comparison, flips: int = _SHOWN) -> str:
    """For a terminal; `flips` problems are named in each direction."""
    lines = [f"warning: {warning}" for warning in comparison.warnings]
    for d in comparison.differences:
        lines += ["", f"{d.benchmark}: {_problem_count(d)} in both"]
        for side in (d.before, d.after):
            lines.append(
                f"  {_accuracy(side):<21}{side.run} ({_plural(side.repeats, 'sample')} each)"
            )
        lines.append(f"  difference {_points(d.difference)} {_points_interval(d.interval)}")
        lines.append(f"  {_p_values(d)}")
        for name, flipped in (("gained", d.gained), ("lost", d.lost)):
            ids = ", ".join(flip.id for flip in flipped[:flips])
            more = f", and {len(flipped) - flips} more" if len(flipped) > flips else ""
            lines.append(f"  {name} {len(flipped)}" + (f": {ids}{more}" if ids else ""))
    return "\n".join(lines).strip() + "\n"


def markdown(comparison: Comparison) -> str:
    """A table for a paper or an issue, with the tests named under it."""
    adjusted = any(d.p_value_holm is not None for d in comparison.differences)
    head = ["benchmark", "problems", "run", "avg@k (%)", "difference (points)", "p"]
    rows = [head + ["p (Holm)"] * adjusted + ["gained / lost"]]
    rows.append(["---"] * len(rows[0]))
    shown = set()
    for d in comparison.differences:
        blank = [""] * (1 + adjusted)
        # Not the same for every run: each is compared on the problems that both have.
        if (d.benchmark, d.problems, d.before) not in shown:
            shown.add((d.benchmark, d.problems, d.before))
            count = _problem_count(d).removesuffix(" problems")
            first = [d.benchmark, count, _code(d.before.run), _accuracy(d.before)]
            rows.append([*first, "", *blank, ""])
        rows.append(
            [
                d.benchmark,
                _problem_count(d).removesuffix(" problems"),
                _code(d.after.run),
                _accuracy(d.after),
                f"{_points(d.difference, unit='')} {_points_interval(d.interval)}",
                _p(d.p_value),
                *([_p(d.p_value_holm)] if d.p_value_holm is not None else []),
                f"{len(d.gained)} / {len(d.lost)}",
            ]
        )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines += [
        "",
        "In brackets 95 % bootstrap intervals over problems (paired for differences); p: exact "
        "two-sided sign-flip test over problems; gained / lost: problems right in most samples "
        "of one run and not of the other.",
    ]
    uneven = [d for d in comparison.differences if d.before.repeats != d.after.repeats]
    if uneven:
        lines.append(
            "Where runs have unequal numbers of samples, the test takes the first of each: "
            + ", ".join(f"{d.tested_repeats} ({d.benchmark})" for d in uneven)
            + "."
        )
    lines += [f"\n> **Warning:** {warning}" for warning in comparison.warnings]
    return "\n".join(lines) + "\n"


def _problem_count(d: Difference) -> str:
    return f"first {d.problems} problems" if d.limited else f"{d.problems} problems"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _accuracy(accuracy: Accuracy) -> str:
    low, high = (100 * end for end in accuracy.interval)
    return f"{100 * accuracy.value:.1f} [{low:.1f}, {high:.1f}]"


def _points(difference: float, unit: str = " points") -> str:
    return f"{100 * difference:+.1f}{unit}"


def _points_interval(interval: tuple[float, float]) -> str:
    return f"[{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def _p_values(d: Difference) -> str:
    of = f" of the first {_plural(d.tested_repeats, 'sample')} of each"
    uneven = d.before.repeats != d.after.repeats
    parts = [f"p {_p(d.p_value)} (sign-flip permutation{of if uneven else ''})"]
    if d.p_value_holm is not None:
        parts.append(f"{_p(d.p_value_holm)} (Holm, all comparisons here)")
    if d.mcnemar is not None:
        parts.append(f"{_p(d.mcnemar)} (McNemar)")
    return ", ".join(parts)


def _code(name: str) -> str:
    return "`" + name.replace("|", "\\|") + "`"
