"""From a script to the flags it would submit: run with `ray` replaced by a recorder."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

_TIMEOUT_S = 30
_MODULES = ("vespo_openrlhf.train", "openrlhf.cli.train_ppo_ray")
_RECORD = "VESPO_CHECK_RECORD"
# Every other command of Ray's does nothing and succeeds.
_RECORDER = f"""#!/bin/sh
[ "$1 $2" = "job submit" ] || exit 0
printf '%s\\0' "$@" >"${_RECORD}"
"""


def submitted_flags(script: Path, arguments: Sequence[str]) -> list[str]:
    """The training flags that `script` hands to `ray job submit`.

    The script really runs, its `ray` does not: the first `ray` on its PATH is a recorder.

    Args:
        script: run as it would be by hand, with this process's environment.
        arguments: of the script.

    Raises:
        ValueError: it fails, submits nothing, or submits something that is not a training run.
    """
    with tempfile.TemporaryDirectory(prefix="vespo-check-") as folder:
        recorder, record = Path(folder) / "ray", Path(folder) / "submitted"
        recorder.write_text(_RECORDER)
        recorder.chmod(0o755)
        environment = {
            **os.environ,
            "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            _RECORD: str(record),
        }
        try:
            finished = subprocess.run(
                ["bash", str(script), *arguments],
                env=environment,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            raise ValueError(
                f"{script} has not submitted a job after {_TIMEOUT_S} s: a recipe only puts flags "
                "together; move what takes long out of it, or check its flags instead"
            ) from None
        if finished.returncode != 0:
            raise ValueError(
                f"{script} fails with status {finished.returncode}: {finished.stderr.strip()}"
            )
        if not record.exists():
            raise ValueError(f"{script} does not call `ray job submit`: nothing to check")
        words = record.read_text().split("\0")[:-1]
    return _flags_of(script, words)


def _flags_of(script: Path, words: Sequence[str]) -> list[str]:
    # An entry point may be one quoted string: job submit -- "python -m ... --flag".
    for candidate in (list(words), shlex.split(" ".join(words))):
        for position, word in enumerate(candidate):
            if word in _MODULES:
                return candidate[position + 1 :]
    raise ValueError(
        f"{script} submits `{' '.join(words)}`, which trains nothing that can be checked: the "
        f"entry point should be `python -m {_MODULES[0]} FLAGS`"
    )
