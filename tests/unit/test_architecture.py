"""The picture is what its script draws, and names files that are there."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "draw_architecture.py"


def test_the_picture_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, f"run {SCRIPT.name}: {done.stderr}"
