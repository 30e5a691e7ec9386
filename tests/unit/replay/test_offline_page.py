"""The table of docs/offline.md says what the committed trainings say."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_page_has_the_figures_of_its_trainings() -> None:
    script, runs = ROOT / "scripts/offline_table.py", ROOT / "docs/study/offline/runs.jsonl"
    command = [sys.executable, str(script), "table", str(runs)]
    made = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    page = (ROOT / "docs/offline.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- offline table -->\n(.*?)<!-- /offline table -->", page, re.S)
    assert found is not None
    assert found[1] == made, f"run: python scripts/offline_table.py table {runs}"
