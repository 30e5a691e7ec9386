"""What the comparison works out, on runs small enough to do in the head."""

from __future__ import annotations

import pytest

from vespo_openrlhf.peers.figures import (
    Batch,
    Run,
    compared,
    cpu_seconds_per_batch,
    figures,
    final_accuracy,
    samples_per_second,
    table,
    time_to_share,
)


def batches(*rewards: float, seconds: float = 2.0, samples: int = 10) -> list[Batch]:
    """One every so many seconds, the first at 100."""
    return [Batch(100 + seconds * i, reward, samples) for i, reward in enumerate(rewards)]


def test_speed_is_that_of_the_steady_part() -> None:
    steady = batches(*[0.5] * 6, seconds=2.0)
    # A slow start and a quick end are left out.
    run = [Batch(0, 0.5, 10), *steady, Batch(steady[-1].time + 0.1, 0.5, 10)]
    assert samples_per_second(run) == pytest.approx(5.0)


def test_samples_are_counted_not_taken_for_granted() -> None:
    run = [Batch(1, 0, 10), Batch(2, 0, 10), Batch(3, 0, 4), Batch(5, 0, 8), Batch(6, 0, 10)]
    assert samples_per_second(run) == pytest.approx((4 + 8) / 3)


def test_too_few_batches_are_refused() -> None:
    assert samples_per_second(batches(0.1, 0.2, 0.3, 0.4)) == pytest.approx(5.0)
    with pytest.raises(ValueError, match="4 at least"):
        samples_per_second(batches(0.1, 0.2, 0.3))


def test_the_final_accuracy_is_the_mean_of_the_last_four() -> None:
    assert final_accuracy(batches(0.0, 0.0, 0.7, 0.8, 0.9, 0.8)) == pytest.approx(0.8)


def test_ninety_percent_is_reached_by_a_mean_of_three() -> None:
    run = batches(0.1, 1.0, 0.1, 0.8, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0)
    # One good batch at 102 is luck; 0.8, 0.9 and 1.0 have the mean that is wanted.
    assert time_to_share(run) == 110


def test_a_run_that_falls_to_its_end_still_has_a_time() -> None:
    assert time_to_share(batches(0.9, 0.8, 0.7, 0.2, 0.2, 0.2, 0.2)) == 104
    assert time_to_share(batches(0.5, 0.5)) == 102


def test_cpu_seconds_are_between_the_ends_of_batches() -> None:
    run = Run(0, 0, batches(*[0.5] * 6), 0, [(90, 7.0), (101, 10.0), (103, 12.0), (109, 30.0)])
    # From 102, where 11 s are used, to 108, where 27 are, three batches end.
    assert cpu_seconds_per_batch(run) == pytest.approx((27 - 11) / 3)


def test_cpu_seconds_outside_of_what_was_seen() -> None:
    run = Run(0, 0, batches(*[0.5] * 6), 0, [(103, 5.0), (104, 8.0)])
    assert cpu_seconds_per_batch(run) == pytest.approx(1.0)


def test_the_figures_of_a_run() -> None:
    run = Run(60.0, 97.5, batches(0.1, 0.5, 0.9, 0.9, 0.9, 0.9), 3 * 2**29, [(90, 0.0), (110, 10)])
    assert figures(run) == {
        "samples_per_second": 5.0,
        "seconds_to_90": 48.0,
        "seconds_to_90_after_start": 10.5,
        "start_seconds": 37.5,
        "cpu_seconds_per_batch": 1.0,
        "peak_memory_gib": 1.5,
        "final_accuracy": 0.9,
        "first_accuracy": 0.1,
        "batches": 6,
    }


def one(speed: float) -> dict[str, float]:
    return {
        "samples_per_second": speed,
        "seconds_to_90": 123.4,
        "seconds_to_90_after_start": 23.4,
        "peak_memory_gib": 4.53,
        "final_accuracy": 0.981,
    }


def test_ours_over_each_other_peer() -> None:
    result = compared({"ours": one(300), "openrlhf": one(100), "trl": one(400)})
    assert result["ours_over_openrlhf"] == 3
    assert result["ours_over_trl"] == 0.75
    assert result["trl"]["samples_per_second"] == 400
    assert compared({"trl": one(400)}) == {"trl": one(400)}


def test_the_faster_way_of_a_peer_counts() -> None:
    result = compared({"ours": one(300), "trl": one(100), "trl_continuous": one(150)})
    assert result["ours_over_trl"] == 2


def test_the_table() -> None:
    sizes = {
        "small": compared({"ours": one(312.31), "trl": one(400)}),
        "large": compared({"ours": one(9.87)}),
    }
    assert table(sizes).splitlines() == [
        "| model | loop | samples/s | s to 90 % | after start-up | peak GiB | final accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| small | this project | 312 | 123 | 23.4 | 4.5 | 98.1 % |",
        "| small | TRL | 400 | 123 | 23.4 | 4.5 | 98.1 % |",
        "| large | this project | 9.9 | 123 | 23.4 | 4.5 | 98.1 % |",
    ]
