"""The command for a GPU, at small sizes on what is here."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.py"
# With what it has imported in its last line.
RUN = "import runpy, sys, atexit; atexit.register(lambda: print('IMPORTED', *sys.modules)); " + (
    "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
)


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_quick_checks_every_part_and_imports_nothing_of_the_stack(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(SCRIPT), "--quick", "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    imported = set(result.stdout.rpartition("IMPORTED")[2].split())
    assert "torch" in imported
    assert not imported & {"openrlhf", "ray", "vllm", "deepspeed", "transformers"}
    report = json.loads(out.read_text())
    assert report["problems"] == []
    assert set(report["limits"]) == {"bandwidth", "float32", "bfloat16"}
    rows = report["rows"]
    assert not [row for row in rows if row.get("status", "ok") != "ok"]
    parts = {row["part"] for row in rows}
    assert parts == {
        *("limits", "loss parity", "loss bench", "head parity", "head bench", "trainer")
    }
    for row in rows:
        assert row["what"] in result.stdout
    ratios = [row for row in rows if "time_ratio" in row and row["part"] == "head bench"]
    assert len(ratios) == 6  # three modes, two ways by whole logits
    assert all(row["time_ratio"] > 0 for row in ratios)
    assert result.stdout.count("] ") >= 6  # a line as each part begins


def test_a_part_that_fails_is_reported_and_the_rest_goes_on(
    gpu_check: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    check = gpu_check.Check("cpu", gpu_check.QUICK, time.monotonic() + 60)

    def out_of_memory() -> None:
        raise torch.OutOfMemoryError("no room")

    def broken() -> None:
        raise ZeroDivisionError("nothing left")

    check.guarded("head bench", "large", out_of_memory)
    check.guarded("trainer", "broken", broken)
    check.guarded("limits", "fine", lambda: check.row("limits", "fine", figure=1.0))
    assert [row.get("status") for row in check.rows] == [
        "out of memory",
        "failed: nothing left",
        None,
    ]
    assert check.problems == ["trainer, broken: failed, ZeroDivisionError"]


def test_nothing_begins_when_the_time_is_up(gpu_check: ModuleType) -> None:
    check = gpu_check.Check("cpu", gpu_check.QUICK, time.monotonic() - 1)
    for part in gpu_check.PARTS.values():
        part(check)
    assert check.rows
    assert all(row["status"] == "left out: the time is up" for row in check.rows)
    assert check.problems == []


def test_a_wrong_result_is_a_problem(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = gpu_check.Check("cpu", gpu_check.QUICK, time.monotonic() + 60)
    right = gpu_check._by_head
    monkeypatch.setattr(gpu_check, "_by_head", lambda *a: tuple(1.01 * r for r in right(*a)))
    gpu_check.check_head(check)
    assert [row["status"] for row in check.rows] == ["WRONG", "WRONG"]
    assert len(check.problems) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_what_to_do(
    gpu_check: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        gpu_check.main([])
    assert "--quick" in capsys.readouterr().err
