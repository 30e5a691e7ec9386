"""Which groups a recording has, in which order, and what is left out of them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest

from vespo_openrlhf.recorded import reading
from vespo_openrlhf.recorded.checks import REASONS, Limits, problems
from vespo_openrlhf.recorded.reading import Recording, find_shards
from vespo_openrlhf.recorded.schema import Origin, RecordedSample, to_table
from vespo_openrlhf.recorded.writing import ShardWriter, write_shard

ORIGIN = Origin("run", "model", "digest")
LIMITS = Limits(vocabulary=1000, max_length=8)


def first_tokens(group: Sequence[RecordedSample | None]) -> list[int | None]:
    return [None if sample is None else int(sample.tokens[0]) for sample in group]


def write(folder: Path, samples: Sequence[RecordedSample], shard_bytes: int = 2**20) -> Path:
    writer = ShardWriter(folder, ORIGIN, shard_bytes)
    for sample in samples:
        writer.add(sample)
    writer.flush()
    return folder


def test_groups_come_together_from_shards_in_whatever_order(make_sample, tmp_path: Path) -> None:
    """As samples end: side by side with those of other groups, and not by their numbers."""
    ended = [(0, 2), (1, 1), (0, 0), (1, 0), (0, 3), (1, 3), (1, 2), (0, 1)]
    folder = write(tmp_path, [make_sample(*each) for each in ended], shard_bytes=1200)
    assert len(find_shards(folder)) > 2
    recording = Recording([folder], 4, LIMITS)
    # Group 1 was whole before group 0.
    assert [first_tokens(group) for group in recording] == [[10, 11, 12, 13], [0, 1, 2, 3]]
    assert recording.names == ["1:abc/1", "0:abc/0"]
    assert recording.samples == 8
    assert recording.untrained == 0


def test_those_that_the_run_trained_come_as_it_trained_them(make_sample, tmp_path: Path) -> None:
    samples = [make_sample(ticket, sample) for ticket in range(4) for sample in range(4)]
    write(tmp_path / "run" / "recorded", samples)
    stamps = [{"ticket": 2, "update": 0}, {"ticket": 0, "update": 1}]
    text = "".join(json.dumps(stamp) + "\n" for stamp in stamps)
    (tmp_path / "run" / "samples.jsonl").write_text(text + '{"ticket": 1, "upd')  # torn by a kill
    for path in (tmp_path / "run", tmp_path / "run" / "recorded"):
        recording = Recording([path], 4, LIMITS, trained_only=True)
        assert [group[0].ticket for group in recording] == [2, 0]
        assert "2 groups that their run never trained are left out" in recording.account()
        # Otherwise the others are the last.
        recording = Recording([path], 4, LIMITS)
        assert [group[0].ticket for group in recording] == [2, 0, 1, 3]
        assert recording.untrained == 2
        (tmp_path / "run" / "samples.jsonl").rename(tmp_path / "elsewhere")
        assert len(Recording([path], 4, LIMITS, trained_only=True)) == 4  # nobody says
        (tmp_path / "elsewhere").rename(tmp_path / "run" / "samples.jsonl")


def test_a_large_group_is_read_as_several_and_a_small_one_with_holes(
    make_sample, tmp_path: Path
) -> None:
    sizes = {0: 10, 1: 3, 2: 1}
    samples = [make_sample(ticket, i) for ticket, size in sizes.items() for i in range(size)]
    recording = Recording([write(tmp_path, samples)], 4, LIMITS)
    found = {
        name: first_tokens(group) for name, group in zip(recording.names, recording, strict=True)
    }
    assert found == {
        "0:abc/0.0": [0, 1, 2, 3],
        "0:abc/0.1": [4, 5, 6, None],
        "0:abc/0.2": [7, 8, 9, None],
        "1:abc/1": [10, 11, 12, None],
    }
    assert recording.left_out == 1
    assert "1 in groups of which too little is left" in recording.account()


def test_a_sample_that_cannot_be_trained_on_leaves_a_hole(make_sample, tmp_path: Path) -> None:
    samples = [make_sample(0, i, reward=None if i == 1 else 1.0) for i in range(4)]
    recording = Recording([write(tmp_path, samples)], 4, LIMITS)
    assert first_tokens(recording.read(0)) == [0, None, 2, 3]
    assert recording.problems == {"no_reward": 1}


BROKEN = {
    "not_sampled": {"tokens": numpy.empty(0), "action_mask": numpy.empty(0), "log_probs": None},
    "lengths": {"action_mask": numpy.ones(7, dtype=bool)},
    "vocabulary": {"tokens": numpy.array([1, 2, 3, 1000, 4, 5, 6, 7])},
    "too_long": {
        "tokens": numpy.arange(9),
        "action_mask": numpy.ones(9, dtype=bool),
        "log_probs": numpy.zeros(9),
    },
    "no_log_probs": {"log_probs": None},
    "not_finite": {"log_probs": numpy.array([0, 0, 0, math.nan, 0, 0, 0, 0])},
    "no_reward": {"reward": None},
}
ALSO = [
    ("lengths", {"log_probs": numpy.zeros(9)}),
    ("vocabulary", {"tokens": numpy.array([1, 2, 3, -1, 4, 5, 6, 7])}),
    ("not_finite", {"log_probs": numpy.array([0, 0, 0, 0, 0, 0, 0, -math.inf])}),
    ("not_finite", {"reward": math.inf}),
    ("no_reward", {"reward": None, "failure": "reward_timeout"}),
    ("no_reward", {"reward": None, "failure": "reward_model"}),
    # Of a token that was not sampled nobody reads it.
    ("", {"log_probs": numpy.array([math.nan, 0, 0, 0, 0, 0, 0, 0])}),
]


def test_every_reason_is_found_among_sound_samples(make_sample) -> None:
    assert list(BROKEN) == list(REASONS)
    cases = [*BROKEN.items(), *ALSO]
    samples = [make_sample()]
    for number, (_, changes) in enumerate(cases):
        samples += [make_sample(number, 1, **changes), make_sample(number, 2)]
    table = to_table(samples, ORIGIN)
    expected = [""] + [reason for case in cases for reason in (case[0], "")]
    assert problems(table, LIMITS) == expected
    for row, reason in enumerate(expected):  # and alone
        assert problems(table.slice(row, 1), LIMITS) == [reason]


def test_log_probs_are_not_asked_for_where_others_take_their_place(make_sample) -> None:
    samples = [make_sample(0, 0, **BROKEN["no_log_probs"]), make_sample(0, 1, **BROKEN["lengths"])]
    limits = LIMITS._replace(needs_log_probs=False)
    assert problems(to_table(samples, ORIGIN), limits) == ["", "lengths"]


def test_rewards_are_not_asked_for_where_others_take_their_place(make_sample) -> None:
    samples = [make_sample(0, i, reward=reward) for i, reward in enumerate((None, math.nan))]
    limits = LIMITS._replace(needs_reward=False)
    assert problems(to_table(samples, ORIGIN), limits) == ["", ""]


def test_where_nothing_can_be_trained_on_it_says_why(make_sample, tmp_path: Path) -> None:
    write(tmp_path, [make_sample(0, i, log_probs=None) for i in range(4)])
    with pytest.raises(ValueError, match=r"of 4 samples none .* left out: 4 no_log_probs"):
        Recording([tmp_path], 4, LIMITS)


def test_several_recordings_keep_their_tickets_apart(make_sample, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, [make_sample(0, i) for i in range(4)])
    recording = Recording([tmp_path / "a", tmp_path / "b"], 4, LIMITS)
    assert recording.names == ["0:0:abc/0", "1:0:abc/0"]


def test_recordings_of_two_tokenizers_do_not_go_together(make_sample, tmp_path: Path) -> None:
    write_shard(tmp_path / "a.parquet", [make_sample()], ORIGIN)
    write_shard(tmp_path / "b.parquet", [make_sample()], Origin("run", "model", "another"))
    with pytest.raises(ValueError, match=r"are of different tokenizers .another and digest."):
        Recording([tmp_path], 4, LIMITS)


def test_a_folder_without_shards_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no recorded rollouts: expected \*\.parquet"):
        Recording([tmp_path], 4, LIMITS)


def test_what_is_kept_in_memory_is_bounded(
    make_sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of reading, and what comes is the same."""
    samples = [make_sample(ticket, i) for ticket in range(40) for i in range(4)]
    folder = write(tmp_path, samples, shard_bytes=3000)
    other = Recording([folder], 4, LIMITS)
    largest = max(other._table(i).nbytes for i in range(len(other._row_groups)))
    recording = Recording([folder], 4, LIMITS)
    monkeypatch.setattr(reading, "_KEPT_BYTES", 3 * largest)
    for group in numpy.random.default_rng(0).permutation(40).tolist():
        assert first_tokens(recording.read(group)) == [group * 10 + i for i in range(4)]
        assert sum(table.nbytes for table in recording._tables.values()) <= 3 * largest
        assert recording._kept_bytes == sum(t.nbytes for t in recording._tables.values())
