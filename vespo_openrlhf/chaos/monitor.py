"""How far a run is, and how long it stood still while nothing was wrong with its world."""

from __future__ import annotations

from pathlib import Path

_FILES = ("metrics.jsonl", "samples.jsonl")


class Monitor:
    """Told the time and how much is recorded, it knows the stretches without progress.

    Progress is a record more than at the last look: a resume that cuts the records is none, and
    no line in a log is. While a fault is open the clock does not run.
    """

    def __init__(self) -> None:
        self.longest_s = 0.0
        self.longest_at = 0.0
        self.progressed_at: float | None = None
        self._amount = 0
        self._since: float | None = None  # None: a fault is open, or nothing has begun
        self._open = False

    def observe(self, now: float, amount: int) -> None:
        """Look: `amount` of records at `now`, in seconds on any clock."""
        if amount > self._amount:
            self.progressed_at = now
            if not self._open:
                self._count(now)
                self._since = now
        self._amount = amount
        self._count(now)

    def open(self, now: float) -> None:
        """A fault begins: standing still is allowed."""
        self._count(now)
        self._open, self._since = True, None

    def close(self, now: float) -> None:
        """The run has recovered from it."""
        self._open, self._since = False, now

    def _count(self, now: float) -> None:
        if self._since is not None and now - self._since > self.longest_s:
            self.longest_s, self.longest_at = now - self._since, self._since


def recorded(run: Path) -> int:
    """Bytes of records of what was trained; a partly written line counts."""
    return sum(path.stat().st_size for name in _FILES if (path := run / name).exists())


def steps(run: Path) -> int:
    """Rollout batches that were trained and are recorded."""
    path = run / _FILES[0]
    return path.read_text(errors="replace").count("\n") if path.exists() else 0
