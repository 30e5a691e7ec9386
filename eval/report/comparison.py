"""Are these runs different, or is it chance?

Each later run is compared with the first, problem by problem, from their records and manifests.

The test flips signs, which is exact where the difference of a problem is as likely to be d as -d.
If two runs are equally good, that holds where both have as many samples of the problem, and not
where one has 32 and the other 1: at an accuracy of 0.03 such a test finds a difference in 40 % of
cases at p < 0.05. So it is made on the first k samples of each run, k being the smaller number.
(Permuting all samples within each problem would be exact too, for a narrower hypothesis: it also
rejects two models that are equally good all in all, each better at problems of its own.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vespo_openrlhf.eval.metrics.intervals import bootstrap_interval, difference_intervals
from vespo_openrlhf.eval.metrics.paired import holm, mcnemar_p_value, sign_flip_p_value
from vespo_openrlhf.eval.metrics.summary import group_by_problem
from vespo_openrlhf.eval.results.folder import GENERATIONS, MANIFEST
from vespo_openrlhf.files import numbered_json_lines
from vespo_openrlhf.redact import redact


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
    try:
        for number, record in numbered_json_lines(file, appended=False):
            if "id" not in record:
                raise ValueError(f"{file}, line {number}, lacks its id")
            records.append({k: record.get(k) for k in _KEPT})  # responses are long
    except ValueError as error:
        raise ValueError(
            f"{error}: if the run was interrupted, give its command again to complete it"
        ) from error
    try:
        return group_by_problem(records)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


_KEPT = ("id", "repeat", "correct", "gold", "prompt_hash", "verifier")


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
