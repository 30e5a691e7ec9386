"""What a chaos run does and when, and how it tells that the run stands still."""

import itertools
from pathlib import Path

import pytest

from vespo_openrlhf.chaos.monitor import Monitor, recorded, steps
from vespo_openrlhf.chaos.schedule import FAULTS, schedule


def test_the_seed_decides_every_fault() -> None:
    def first(seed: int) -> list:
        return list(itertools.islice(schedule(seed, list(FAULTS), engines=2), 50))

    assert first(3) == first(3)
    assert first(3) != first(4)


def test_every_round_holds_every_fault_once() -> None:
    kinds = list(FAULTS)
    faults = list(itertools.islice(schedule(0, kinds, engines=2), 20 * len(kinds)))
    orders = set()
    for start in range(0, len(faults), len(kinds)):
        names = [fault.kind for fault in faults[start : start + len(kinds)]]
        assert sorted(names) == sorted(kinds)
        orders.add(tuple(names))
    assert len(orders) > 10
    assert {fault.victim for fault in faults} == {0, 1}
    assert {fault.core for fault in faults} == {True, False}
    for fault in faults:
        low, high = FAULTS[fault.kind]
        assert low <= fault.down_s <= high
        assert fault.pause_s > 0


def test_faults_that_are_left_out_do_not_come() -> None:
    faults = itertools.islice(schedule(0, ["node lost", "driver killed"], engines=2), 10)
    assert {fault.kind for fault in faults} == {"node lost", "driver killed"}


def test_a_stretch_without_a_record_is_measured() -> None:
    monitor = Monitor()
    for now in (0, 50, 100):  # nothing has begun: the run is starting
        monitor.observe(now, 0)
    assert monitor.progressed_at is None
    monitor.observe(110, 10)
    monitor.observe(120, 20)
    monitor.observe(150, 20)
    assert (monitor.longest_s, monitor.longest_at) == (30, 120)
    monitor.observe(160, 20)
    monitor.observe(161, 30)
    monitor.observe(162, 40)
    assert (monitor.longest_s, monitor.longest_at) == (41, 120)
    assert monitor.progressed_at == 162


def test_a_stretch_that_has_not_ended_counts() -> None:
    monitor = Monitor()
    monitor.observe(0, 1)
    monitor.observe(500, 1)
    assert monitor.longest_s == 500


def test_no_stretch_is_counted_while_a_fault_is_open() -> None:
    monitor = Monitor()
    monitor.observe(0, 1)
    monitor.open(10)
    monitor.observe(500, 1)
    monitor.observe(600, 2)  # it works again, but the engine is not back yet
    monitor.observe(900, 2)
    assert monitor.longest_s == 10
    monitor.close(1000)
    monitor.observe(1030, 2)
    assert (monitor.longest_s, monitor.longest_at) == (30, 1000)
    assert monitor.progressed_at == 600


def test_records_that_a_resume_cuts_are_no_progress() -> None:
    monitor = Monitor()
    monitor.observe(0, 100)
    monitor.observe(10, 60)
    assert monitor.progressed_at == 0
    monitor.observe(20, 61)
    assert monitor.progressed_at == 20


def test_what_is_recorded_is_read_from_the_run_folder(tmp_path: Path) -> None:
    assert (recorded(tmp_path), steps(tmp_path)) == (0, 0)
    (tmp_path / "samples.jsonl").write_text("{}\n" * 4)
    (tmp_path / "metrics.jsonl").write_text("{}\n{}\n{")
    assert (recorded(tmp_path), steps(tmp_path)) == (19, 2)


def test_the_arguments_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from vespo_openrlhf.chaos.command import parse

    options = parse(["--out", str(tmp_path / "new"), "--train-flags", "--lag.max", "7"])
    assert (options.minutes, options.seed, options.faults) == (20.0, 0, list(FAULTS))
    assert options.train_flags == ["--lag.max", "7"]
    (tmp_path / "file").touch()
    for arguments, reason in (
        (["--out", str(tmp_path)], "holds something already"),
        (["--out", "new", "--minutes", "0"], "must be above 0"),
        (["--out", "new", "--faults", "meteor"], "invalid choice"),
    ):
        with pytest.raises(SystemExit):
            parse(arguments)
        assert reason in capsys.readouterr().err
