"""TRL's own environment: beside ours, never in it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

TRL = "1.16.0"
#: At the versions of our environment. The last two are the reward's.
AS_OURS = ("transformers", "datasets", "accelerate", "math-verify", "pebble")
_MADE = "vespo-made"


def requirements() -> list[list[str]]:
    """What pip is asked for, in order: torch first, so that nothing chooses another build."""
    version = importlib.metadata.version
    torch = version("torch").partition("+")[0]
    return [[f"torch=={torch}"], [f"trl=={TRL}", *(f"{name}=={version(name)}" for name in AS_OURS)]]


def python(venv: Path) -> Path:
    """The interpreter of the environment in `venv`, which is made where it is not whole.

    Raises:
        RuntimeError: pip failed; the message holds the end of its output.
        ValueError: the folder holds something that was not made here.
    """
    made, interpreter = venv / _MADE, venv / "bin" / "python"
    wanted = "\n".join(name for step in requirements() for name in step)
    if made.exists() and made.read_text() == wanted:
        return interpreter
    if venv.exists() and not made.exists() and any(venv.iterdir()):
        raise ValueError(
            f"{venv} holds something that is not TRL's environment, and making that would delete "
            "it: name another folder with --venv, or remove this one"
        )
    print(f"making TRL's environment in {venv}: a few minutes", file=sys.stderr, flush=True)
    _run([sys.executable, "-m", "venv", "--clear", str(venv)])
    made.write_text("")  # ours to delete, and not whole yet
    # Of the first step alone, as scripts/install.sh has it.
    index = os.environ.get("TORCH_INDEX_URL", "")
    options = ["--index-url", index] if index else []
    for step in requirements():
        print(f"  pip install {' '.join(step)}", file=sys.stderr, flush=True)
        _run([str(interpreter), "-m", "pip", "install", "--quiet", *options, *step])
        options = []
    made.write_text(wanted)
    return interpreter


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-3000:]}")
