"""`vespo eval compare A B [C ...]`: are these runs different, or is it chance?

Each later run is compared with the first, problem by problem, from their records and manifests.

The test flips signs, which is exact where the difference of a problem is as likely to be d as -d.
If two runs are equally good, that holds where both have as many samples of the problem, and not
where one has 32 and the other 1: at an accuracy of 0.03 such a test finds a difference in 40 % of
cases at p < 0.05. So it is made on the first k samples of each run, k being the smaller number.
(Permuting all samples within each problem would be exact too, for a narrower hypothesis: it also
rejects two models that are equally good all in all, each better at problems of its own.)
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vespo_openrlhf.eval.metrics.intervals import bootstrap_interval, difference_intervals
from vespo_openrlhf.eval.metrics.paired import holm, mcnemar_p_value, sign_flip_p_value
from vespo_openrlhf.eval.metrics.summary import group_by_problem
from vespo_openrlhf.eval.records import GENERATIONS, MANIFEST
from vespo_openrlhf.redact import redact

_SHOWN = 5


@dataclass(frozen=True)
class Accuracy:
    """avg@k of one run on the problems that are compared.

    Attributes:
        interval: 95 % bootstrap interval over problems.
        repeats: samples per problem (k).
    """

    run: str
    value: float
    interval: tuple[float, float]
    repeats: int


@dataclass(frozen=True)
class Flip:
    """A problem right in most samples of one run and not of the other."""

    id: str
    before: float
    after: float


@dataclass(frozen=True)
class Difference:
    """One run against the first, on one benchmark.

    Attributes:
        benchmark: its name.
        problems: how many both runs have; the comparison is made on these.
        limited: one of the runs had the first problems of the benchmark only (``--limit``).
        difference: avg@k of `after` minus that of `before`.
        interval: its 95 % paired bootstrap interval over problems.
        p_value: exact sign-flip permutation test over problems, two-sided.
        tested_repeats: samples of each problem in that test: the fewer of the two runs', of both
            the first. The accuracies and the difference are those of all samples.
        p_value_holm: the same, adjusted for all comparisons of this table; None with one only.
        mcnemar: exact McNemar p-value; None unless both runs have one sample per problem.
        gained, lost: the flips, largest change first.
    """

    benchmark: str
    problems: int
    limited: bool
    before: Accuracy
    after: Accuracy
    difference: float
    interval: tuple[float, float]
    p_value: float
    tested_repeats: int
    p_value_holm: float | None
    mcnemar: float | None
    gained: tuple[Flip, ...]
    lost: tuple[Flip, ...]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found: the differences, and what makes them hard to read."""

    runs: tuple[str, ...]
    differences: tuple[Difference, ...]
    warnings: tuple[str, ...]

    def text(self, flips: int = _SHOWN) -> str:
        """For a terminal; `flips` problems are named in each direction."""
        lines = [f"warning: {warning}" for warning in self.warnings]
        for d in self.differences:
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

    def markdown(self) -> str:
        """A table for a paper or an issue, with the tests named under it."""
        adjusted = any(d.p_value_holm is not None for d in self.differences)
        head = ["benchmark", "problems", "run", "avg@k (%)", "difference (points)", "p"]
        rows = [head + ["p (Holm)"] * adjusted + ["gained / lost"]]
        rows.append(["---"] * len(rows[0]))
        shown = set()
        for d in self.differences:
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
        uneven = [d for d in self.differences if d.before.repeats != d.after.repeats]
        if uneven:
            lines.append(
                "Where runs have unequal numbers of samples, the test takes the first of each: "
                + ", ".join(f"{d.tested_repeats} ({d.benchmark})" for d in uneven)
                + "."
            )
        lines += [f"\n> **Warning:** {warning}" for warning in self.warnings]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Run:
    name: str
    manifest: Mapping[str, Any]
    benchmarks: Mapping[str, Mapping[str, list[Mapping[str, Any]]]]


def compare(dirs: Sequence[Path]) -> Comparison:
    """Compare each of the later runs with the first.

    Args:
        dirs: two or more output folders of `vespo eval run`.

    Raises:
        ValueError: fewer than two runs, a folder without records, records that are incomplete, no
            benchmark in common, or the same benchmark with no problem in common.
    """
    if len(dirs) < 2:
        raise ValueError("a comparison needs two runs or more")
    runs = [_read(Path(folder)) for folder in dirs]
    first, *others = runs
    differences: list[Difference] = []
    warnings: list[str] = []
    for other in others:
        shared = [name for name in first.benchmarks if name in other.benchmarks]
        if not shared:
            raise ValueError(
                f"{first.name} ({', '.join(first.benchmarks)}) and {other.name} "
                f"({', '.join(other.benchmarks)}) have no benchmark in common"
            )
        apart = sorted(set(first.benchmarks) ^ set(other.benchmarks))
        if apart:
            warnings.append(f"only one of {first.name} and {other.name} has {', '.join(apart)}")
        warnings += _setting_warnings(first, other)
        for name in shared:
            difference, more = _difference(name, first, other)
            differences.append(difference)
            warnings += more
    if len(differences) > 1:
        adjusted = holm([difference.p_value for difference in differences])
        differences = [
            replace(difference, p_value_holm=p)
            for difference, p in zip(differences, adjusted, strict=True)
        ]
    order = list(first.benchmarks)
    differences.sort(key=lambda difference: order.index(difference.benchmark))
    return Comparison(tuple(run.name for run in runs), tuple(differences), tuple(warnings))


def _read(folder: Path) -> _Run:
    files = sorted(folder.glob(f"*/{GENERATIONS}"))
    if not files:
        raise ValueError(
            f"{folder} holds no <benchmark>/{GENERATIONS}: give the --out folder of vespo eval run"
        )
    manifest = folder / MANIFEST
    return _Run(
        str(folder),
        redact(json.loads(manifest.read_text(encoding="utf-8"))) if manifest.is_file() else {},
        {file.parent.name: _problems(file) for file in files},
    )


def _problems(file: Path) -> dict[str, list[Mapping[str, Any]]]:
    records = []
    with open(file, encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = json.loads(line)
                # Responses are long and not needed.
                records.append({k: record.get(k) for k in _KEPT} | {"id": record["id"]})
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{file}, line {number} is no complete record; if the run was interrupted, "
                    "give its command again to complete it"
                ) from error
    try:
        return group_by_problem(records)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


_KEPT = ("repeat", "correct", "gold", "prompt_hash", "verifier")


def _difference(name: str, first: _Run, other: _Run) -> tuple[Difference, list[str]]:
    a, b = first.benchmarks[name], other.benchmarks[name]
    shared = [problem for problem in a if problem in b]
    if not shared:
        raise ValueError(
            f"{name}: {first.name} and {other.name} have no problem in common (ids such as "
            f"{next(iter(a))} and {next(iter(b))})"
        )
    entries = [(r.manifest.get("benchmarks") or {}).get(name) or {} for r in (first, other)]
    seeds = [(run.manifest.get("settings") or {}).get("seed") for run in (first, other)]
    # Choices stand in another order then, which the warning of another seed tells of.
    reordered = seeds[0] != seeds[1] and any("choice_order" in entry for entry in entries)
    warnings = []
    if len(shared) < max(len(a), len(b)):
        warnings.append(
            f"{name}: {first.name} has {len(a)} problems, {other.name} {len(b)}; the "
            f"{len(shared)} that both have are compared"
        )
    for field, what in (
        ("gold", "another gold answer: the data is not the same"),
        ("prompt_hash", "another prompt"),
        ("verifier", "been judged by another verifier: run vespo eval score on both"),
    ):
        changed = sum(a[p][0].get(field) != b[p][0].get(field) for p in shared)
        if changed and not (reordered and field != "verifier"):
            warnings.append(f"{name}: {changed} of {len(shared)} problems have {what}")

    right_a = np.array([_right(a[p]) for p in shared])
    right_b = np.array([_right(b[p]) for p in shared])
    repeats_a, repeats_b = len(a[shared[0]]), len(b[shared[0]])
    before, after = right_a / repeats_a, right_b / repeats_b
    k = min(repeats_a, repeats_b)
    even = np.array([_right(b[p][:k]) - _right(a[p][:k]) for p in shared])
    low, high = difference_intervals((after - before)[None], even_RN=even[None] / k)[0]
    flips = [
        Flip(shared[i], float(before[i]), float(after[i]))
        for i in np.argsort(-np.abs(after - before), kind="stable")
    ]
    gained = tuple(flip for flip in flips if flip.before <= 0.5 < flip.after)
    lost = tuple(flip for flip in flips if flip.after <= 0.5 < flip.before)
    single = repeats_a == repeats_b == 1
    return (
        Difference(
            benchmark=name,
            problems=len(shared),
            limited=any("of" in entry for entry in entries),
            before=Accuracy(
                first.name, float(before.mean()), bootstrap_interval(before.tolist()), repeats_a
            ),
            after=Accuracy(
                other.name, float(after.mean()), bootstrap_interval(after.tolist()), repeats_b
            ),
            difference=float((after - before).mean()),
            interval=(float(low), float(high)),
            p_value=sign_flip_p_value(even.tolist()),
            tested_repeats=k,
            p_value_holm=None,
            mcnemar=mcnemar_p_value(len(gained), len(lost)) if single else None,
            gained=gained,
            lost=lost,
        ),
        warnings,
    )


def _right(samples: Sequence[Mapping[str, Any]]) -> int:
    return sum(bool(sample["correct"]) for sample in samples)


def _setting_warnings(first: _Run, other: _Run) -> list[str]:
    """What differs between two manifests apart from the model and the time."""
    for run in (first, other):
        if not run.manifest:
            return [f"{run.name} has no {MANIFEST}, so its settings are not known"]
    changes = []
    for part in ("settings", "versions", "benchmarks"):
        a, b = (_flat(run.manifest.get(part) or {}, part) for run in (first, other))
        for key in sorted(set(a) & set(b) if part == "benchmarks" else set(a) | set(b)):
            if a.get(key) != b.get(key):
                changes.append(f"{key}: {a.get(key)!r} in {first.name}, {b.get(key)!r}")
    return [f"settings differ, {change} in {other.name}" for change in changes]


def _flat(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {name: value}
    return {k: v for key, part in value.items() for k, v in _flat(part, f"{name}.{key}").items()}


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
        print(comparison.markdown(), end="")
    else:
        print(comparison.text(arguments.flips), end="")
    return 0
