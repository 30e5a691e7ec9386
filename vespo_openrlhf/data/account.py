"""What becomes of every row: kept, or dropped and why."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from vespo_openrlhf.data.sources import ARITHMETIC, Row
from vespo_openrlhf.eval.benchmarks import EMBEDDED

#: Why a row was dropped, in the order of the steps.
REASONS = {
    "no_problem": "no problem in it",
    "no_gold": "no gold answer in it",
    "duplicate": "the same problem and gold again",
    "conflict": "the same problem with different golds: all of them",
    "contaminated_exact": "a benchmark's problem, word for word",
    "contaminated_overlap": "overlaps a benchmark's problem",
    "gold_unusable": "the verifier cannot read the gold",
    "gold_not_itself": "the verifier does not take the gold as right",
    "overlong": "the prompt has more tokens than asked for",
}


@dataclass
class Report:
    """What was done, as it stands in `manifest.json` and in the data card.

    Attributes:
        read: rows read, from `origin`.
        dropped: rows by reason, see `REASONS`.
        contaminated: by benchmark, the rows dropped as its problems: "exact" and "overlap".
        phrases: rows kept although they share a run of tokens with a benchmark's problem.
        checked: benchmarks looked into, with their problems, source and checksum.
        not_checked: benchmarks that were not available, and why.
        splits: rows of each split.
    """

    source: str
    origin: str = ""
    read: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    contaminated: dict[str, dict[str, int]] = field(default_factory=dict)
    phrases: int = 0
    checked: dict[str, dict[str, Any]] = field(default_factory=dict)
    not_checked: dict[str, str] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def decontaminated(self) -> bool:
        """Whether any benchmark was there to check against; the built-in sums, which always are,
        say something of the data that are such sums alone."""
        return self.source == ARITHMETIC or bool(set(self.checked) - {EMBEDDED})


@dataclass(frozen=True)
class Problem:
    row: Row
    words: tuple[str, ...]


class Dropped:
    """Counts what is dropped, and keeps it for `dropped.jsonl`."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.lines: list[str] = []

    def add(self, reason: str, row: Row, **more: Any) -> None:
        self._report.dropped[reason] += 1
        line = {"reason": reason, "problem": row.problem, "gold": row.gold, **more}
        self.lines.append(json.dumps(line, ensure_ascii=False))
