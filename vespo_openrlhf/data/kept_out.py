"""The problems that must not be trained on: those of the benchmarks, and the user's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vespo_openrlhf.data.account import Report
from vespo_openrlhf.data.steps import progress
from vespo_openrlhf.eval.benchmarks import BENCHMARKS, parse
from vespo_openrlhf.eval.benchmarks.loading import load


def benchmark_problems(
    folder: Path | None, against: Sequence[Path], report: Report
) -> Iterator[tuple[str, str, str]]:
    """Benchmark, id and text of every benchmark's problems that can be had, and of the user's own
    files, which have to be.

    Raises:
        ValueError: a file of the user's cannot be read, or goes by the name of another.
    """
    places = dict(BENCHMARKS)
    for file in against:
        (own,) = parse(str(file))
        if own.benchmark.name in places:
            raise ValueError(
                f"--against {file}: there is a benchmark {own.benchmark.name} already; call the "
                "file something else, or put it into the folder of --benchmark-data if it is that "
                "benchmark's"
            )
        places[own.benchmark.name] = own.benchmark
    hub_is_there = True
    for name, benchmark in progress(places.items(), "benchmarks", unit=""):
        reasons = []
        for place in [None] if folder is None or benchmark.path else [folder, None]:
            if place is None and benchmark.hub and not hub_is_there:
                reasons.append("the hub cannot be reached")
                continue
            try:
                loaded = load(benchmark, place)
            except ValueError as error:
                if benchmark.path:
                    raise
                # Each further dataset would be tried for half a minute.
                hub_is_there &= not isinstance(error.__cause__, ConnectionError)
                reason = str(error).removeprefix(f"benchmark {name}: ")
                reasons.append(reason.replace("--data-dir", "--benchmark-data"))
                continue
            report.checked[name] = {
                "problems": len(loaded.problems),
                "source": loaded.source,
                "checksum": loaded.checksum,
            }
            for problem in loaded.problems:
                yield name, problem.id, problem.text
            break
        else:
            report.not_checked[name] = "; ".join(reasons)
