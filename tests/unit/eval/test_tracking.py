"""Results in Weights & Biases, offline, and in TensorBoard: the real clients, read back."""

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.eval.__main__ import main
from vespo_openrlhf.eval.commands import tracking

Command = Callable[..., list[str]]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def wandb_records(folder: Path) -> list[Any]:
    """What the client left for `wandb sync`: LevelDB's log format, after 7 bytes of its own."""
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content, at, payload, records = path.read_bytes(), 7, b"", []
    while at < len(content):
        left = 32768 - at % 32768
        if left < 7:  # no room for a header: the block ends
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        payload += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(payload)
            records.append(record)
            payload = b""
    return records


def test_a_run_is_logged_to_both(
    command: Command, tmp_path: Path, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    out = tmp_path / "out"
    more = ["--tensorboard", str(tmp_path / "tb"), "--wandb", "sums-project"]
    assert main(command(out, *more, "--limit", "5")) == 0
    summary = json.loads((out / "summary.json").read_text())
    numbers = summary["benchmarks"]["sums"]
    logged = scalars(tmp_path / "tb")
    assert logged["eval/average"] == [(0, pytest.approx(summary["average"]))]
    assert logged["eval/sums-first-5/avg@4"] == [(0, pytest.approx(numbers["avg@k"]))]
    assert logged["eval/sums-first-5/avg@4_low"] == [(0, pytest.approx(numbers["interval"][0]))]
    records, deadline = wandb_records(out), time.monotonic() + 60
    # wandb's own process writes them.
    while not any(r.HasField("history") for r in records) and time.monotonic() < deadline:
        records = wandb_records(out)
    (run,) = [record.run for record in records if record.HasField("run")]
    assert (run.project, run.display_name) == ("sums-project", "out")
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["model"] == "adder"
    assert config["settings"]["limit"] == 5
    assert "engine_options" not in config["settings"]
    (history,) = [record.history for record in records if record.HasField("history")]
    found = {
        (item.key or ".".join(item.nested_key)): json.loads(item.value_json)
        for item in history.item
    }
    assert found["eval/sums-first-5/avg@4"] == numbers["avg@k"]
    assert found["step"] == 0


def test_a_run_with_failed_requests_is_logged_with_their_share(
    command: Command, tmp_path: Path, server: Any
) -> None:
    server.failures = [200] * 12 + [400] * 4
    out = tmp_path / "out"
    more = ["--tensorboard", str(tmp_path / "tb"), "--concurrency", "1", "--limit", "5"]
    assert main(command(out, *more)) == 1
    assert scalars(tmp_path / "tb")["eval/sums-first-5/error_rate"] == [(0, pytest.approx(0.2))]


def test_what_cannot_be_logged_is_named_and_the_results_stay(
    command: Command, server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = tmp_path / "out", tmp_path / "file"
    file.write_text("in the way")
    assert main(command(out, "--tensorboard", str(file))) == 1
    assert f"the results are in {out}, but could not be logged" in capsys.readouterr().err
    assert (out / "summary.json").exists()
    server.requests = []
    assert main(command(out, "--tensorboard", str(tmp_path / "tb"))) == 0
    assert not server.requests
    assert scalars(tmp_path / "tb")


def test_a_missing_package_is_named_before_anything_is_generated(
    command: Command, server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)
    for option in ("wandb", "tensorboard"):
        assert main(command(tmp_path / "out", f"--{option}", "x")) == 2
        assert f"pip install {option}" in capsys.readouterr().err
    assert not server.requests
