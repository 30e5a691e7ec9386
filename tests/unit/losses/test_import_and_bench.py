import json
import subprocess
import sys

import pytest

from vespo_openrlhf.losses import bench

HEAVY = ("ray", "openrlhf", "vllm", "deepspeed", "transformers")


def test_import_needs_torch_alone():
    """In a fresh interpreter: this one may hold anything."""
    code = (
        "import sys, vespo_openrlhf.losses, vespo_openrlhf.losses.bench\n"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == ""


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(bench, "SIZES", ((3, 40), (1, 200)))


def test_bench_measures_every_loss_beside_the_reference(small, capsys, openrlhf_loss):
    bench.main(["--json", "--losses", "vespo,ppo", "--repeats", "2", "--device", "cpu"])
    report = json.loads(capsys.readouterr().out)
    assert report["device"] == "cpu"
    losses = [(row["loss"], row["batch"], row["tokens"]) for row in report["rows"]]
    names = (bench.REFERENCE, "vespo", "ppo")
    assert losses == [(name, *size) for size in bench.SIZES for name in names]
    for row in report["rows"]:
        assert min(row["time_ms"], row["peak_mib"], row["time_ratio"], row["peak_ratio"]) > 0


def test_bench_without_openrlhf(small, capsys, monkeypatch):
    monkeypatch.setattr(bench, "load_openrlhf_loss", lambda: None)
    bench.main(["--losses", "vespo", "--repeats", "1", "--device", "cpu"])
    table = capsys.readouterr().out
    assert "vespo" in table
    assert "x time" not in table


def test_peak_memory_is_that_of_the_tensors():
    """VESPO holds the mask's few bytes aside: two float64 (B, A), then a gradient or two."""
    inputs = bench.make_inputs(4, 5000, "cpu")
    steps = bench.make_steps(["vespo"], inputs)
    tokens = 4 * 5000
    assert 16 * tokens <= bench.peak_bytes(steps["vespo"], inputs, "cpu") <= 28 * tokens
