"""The examples run, on a model that is built in seconds."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

from vespo_openrlhf.embedded.options import BuildOptions, WarmStart

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_run_on_one_page(tmp_path: Path, capsys) -> None:
    """Every prompt is trained once, and with 4 updates a batch no token is older than 7."""
    assert len((EXAMPLES / "one_page.py").read_text().splitlines()) <= 120
    page = load("one_page")
    page.PROMPTS, page.SAMPLES = 8, 4
    settings = BuildOptions(train_problems=8, warm_start=WarmStart(steps=5))
    page.main(batches=4, folder=tmp_path, settings=settings)
    lags = re.findall(r"^batch .*, lag up to (\d+)$", capsys.readouterr().out, re.MULTILINE)
    assert lags == ["3", "7", "7", "7"]
