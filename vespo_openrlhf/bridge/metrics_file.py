"""`metrics.jsonl`: every metric of a run as one JSON object per line, beside OpenRLHF's loggers."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any


class MetricsFile:
    """Appends what OpenRLHF logs to a JSON-lines file, and passes it on to another logger.

    It has the three methods of OpenRLHF's loggers, so it stands where one of them stood. A line
    is `{"step", "kind": "train" | "eval", "time": seconds since the epoch, ...metrics}`; a metric
    that is not finite is written as null, which any JSON reader takes, and one of a reward's that
    is called `step`, by which a resume goes, or as another of these three, as `reward/step`.

    Args:
        path: the file; its folder is made, and a run that resumes appends to it.
        inner: the logger that was there before (TensorBoard's), or None.
    """

    def __init__(self, path: str | Path, inner: Any = None) -> None:
        self._inner = inner
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # Line buffering: whoever reads along, or after a kill, sees whole lines.
        self._file = open(path, "a", buffering=1, encoding="utf-8")  # noqa: SIM115

    def log_train(self, global_step: int, logs_dict: dict[str, Any]) -> None:
        self._write(global_step, "train", logs_dict)
        if self._inner is not None:
            self._inner.log_train(global_step, logs_dict)

    def log_eval(self, global_step: int, logs_dict: dict[str, Any]) -> None:
        self._write(global_step, "eval", logs_dict)
        if self._inner is not None:
            self._inner.log_eval(global_step, logs_dict)

    def close(self) -> None:
        self._file.close()
        if self._inner is not None:
            self._inner.close()

    def _write(self, step: int, kind: str, metrics: dict[str, Any]) -> None:
        line = {"step": step, "kind": kind, "time": round(time.time(), 3)}
        own = set(line)
        for name, value in metrics.items():
            name = f"reward/{name}" if name in own else name
            if isinstance(value, (int, float)):
                line[name] = value if math.isfinite(value) else None
            elif isinstance(value, (list, str)):
                line[name] = value
        self._file.write(json.dumps(line) + "\n")
