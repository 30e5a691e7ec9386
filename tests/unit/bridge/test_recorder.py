"""What the engines deliver, on disk: as it was, and whole after a kill."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch

from vespo_openrlhf.bridge.events import Away, Back, Generated, Scored
from vespo_openrlhf.bridge.offline.rollouts import to_rollout
from vespo_openrlhf.bridge.run.folder import RunFolder
from vespo_openrlhf.bridge.samples import recorder as recorder_module
from vespo_openrlhf.bridge.samples.recorder import Recorder
from vespo_openrlhf.bridge.samples.response import to_experience
from vespo_openrlhf.bridge.wire import Rollout
from vespo_openrlhf.recorded.checks import Limits
from vespo_openrlhf.recorded.reading import Recording, find_shards
from vespo_openrlhf.recorded.schema import Origin, RecordedSample
from vespo_openrlhf.scheduling import Prompt, Request

ORIGIN = Origin("run", "model", "digest")
LIMITS = Limits(1000, 64)


def rollout(first: int, reward: float | None = 1.0, **response: Any) -> Rollout:
    tokens = [first, *range(100, 108)]
    made = {
        "observation_tokens": tokens,
        "action_ranges": [(2, 5), (7, 9)],
        "rollout_log_probs": [0.0, 0.0, -0.1, -0.2, -0.3, 0.0, 0.0, -0.4, -0.5],
        "prompt": "a prompt",
        "label": "a label",
        "reward": reward,
        "scores": reward,
        "extra_logs": {"well_formed": 1.0, "count": 3},
        "truncated": True,
    } | response
    turns = ((2, 5, 0.25), (7, 9, 0.75))
    return Rollout(to_experience(made, 64), ("request",), turns=turns)


def deliver(recorder: Recorder, ticket: int, rollouts: Sequence[Any], version: int = 3) -> None:
    request = Request(ticket, Prompt(1, 17, f"17:{ticket}"), len(rollouts), version)
    group = recorder.begin(request, "a prompt", "a label", "engine-0")
    for sample, delivered in enumerate(rollouts):
        recorder.take(group, Away(sample))
        recorder.take(group, Back(sample, version))
        recorder.take(group, Generated(sample, ((version, 3), (version + 1, 2))))
        if delivered is None:
            recorder.take(group, Scored(sample, None, None, "reward_timeout"))
        else:
            scored = delivered.experience.rewards
            reward = 0.0 if scored is None else float(scored[0])
            recorder.take(group, Scored(sample, reward, delivered))


def read(folder: Path, size: int) -> list[list[RecordedSample | None]]:
    return list(Recording([folder], size, LIMITS))


def test_a_rollout_comes_back_as_the_engine_made_it(tmp_path: Path) -> None:
    """All that the trainer reads of it, bit for bit."""
    recorder = Recorder(tmp_path, ORIGIN, 0)
    delivered = [rollout(1, 1.0), rollout(2, 1 / 3), rollout(3, 0.1, truncated=False)]
    deliver(recorder, 5, delivered)
    recorder.close()
    ((*samples,),) = read(tmp_path, 3)
    for sample, expected in zip(samples, delivered, strict=True):
        assert sample is not None
        found = to_rollout(sample, 64)
        assert found.turns == expected.turns
        assert found.recorded_spans == ((3, 3), (4, 2))
        for name, value in vars(expected.experience).items():
            other = getattr(found.experience, name)
            if name == "info":
                assert {n: float(v) for n, v in other.items()} == {
                    n: float(v) for n, v in value.items()
                }
            elif isinstance(value, torch.Tensor):
                assert torch.equal(value, other), name
                assert value.dtype == other.dtype, name
            else:
                assert value == other, name


def test_it_says_whence_each_sample_is(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, ORIGIN, 0)
    before = time.time()
    deliver(recorder, 5, [rollout(1)])
    recorder.close()
    ((sample,),) = read(tmp_path, 1)
    assert sample is not None
    assert (sample.ticket, sample.sample, sample.samples, sample.version) == (5, 0, 1, 3)
    assert (sample.epoch, sample.row, sample.prompt_id) == (1, 17, "17:5")
    assert (sample.prompt, sample.label, sample.engine) == ("a prompt", "a label", "engine-0")
    assert before <= sample.dispatched_at <= sample.generated_at <= sample.scored_at <= time.time()
    assert sample.logged == {"well_formed": 1.0, "count": 3.0, "score": 1.0}


def test_a_failed_sample_is_kept_with_its_reason(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, ORIGIN, 0)
    deliver(recorder, 0, [rollout(1), None])
    recorder.close()
    recording = Recording([tmp_path], 2, LIMITS)
    assert recording.samples == 2
    assert recording.problems == {"not_sampled": 1}
    assert [sample is None for sample in recording.read(0)] == [False, True]


def test_a_sample_for_a_reward_model_waits_for_one(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, ORIGIN, 0)
    deliver(recorder, 0, [rollout(1, None)])
    recorder.close()
    limits = LIMITS._replace(needs_reward=False)
    ((sample,),) = Recording([tmp_path], 1, limits)
    assert sample is not None
    assert sample.reward is None
    assert sample.failure == "reward_model"
    assert to_rollout(sample, 64).experience.rewards is None


def test_a_resume_keeps_what_came_after_its_checkpoint_aside(tmp_path: Path) -> None:
    """Up to the end of the second batch it is the run's; a kill in the third loses nothing."""
    recorder = Recorder(tmp_path, ORIGIN, 0)
    for ticket in range(3):
        deliver(recorder, ticket, [rollout(ticket)])
        recorder.end_batch()
    deliver(recorder, 3, [rollout(3)])
    recorder.close()
    assert len(find_shards(tmp_path)) == 4
    RunFolder(tmp_path).resume_at(2, 8)
    assert [group[0].ticket for group in read(tmp_path, 1) if group[0]] == [0, 1]
    recorder = Recorder(tmp_path, ORIGIN, 2)
    deliver(recorder, 7, [rollout(7)])
    recorder.close()
    assert [group[0].ticket for group in read(tmp_path, 1) if group[0]] == [0, 1, 7]
    aside = tmp_path / "superseded" / "1"
    assert [group[0].ticket for group in read(aside, 1) if group[0]] == [2, 3]


def test_a_run_that_starts_again_moves_all_of_it(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, ORIGIN, 0)
    deliver(recorder, 0, [rollout(1)])
    recorder.close()
    RunFolder(tmp_path).resume_at(0, 0)
    assert not (tmp_path / "recorded").exists()
    assert len(find_shards(tmp_path / "superseded" / "1")) == 1


def test_a_kill_costs_no_more_than_what_is_young_and_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a batch, by its size or by its age."""
    monkeypatch.setattr(recorder_module, "_MOST_BYTES", 200)  # less than three rollouts
    recorder = Recorder(tmp_path, ORIGIN, 0)
    deliver(recorder, 0, [rollout(i) for i in range(8)])
    recorder.settle()
    assert len(read(tmp_path, 2)) == 3
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(recorder_module.time, "time", lambda: clock.now)
    monkeypatch.setattr(recorder_module, "_MOST_BYTES", 2**20)
    recorder = Recorder(tmp_path / "slow", ORIGIN, 0)
    for now in (10.0, 30.0, 71.0):
        clock.now = now
        deliver(recorder, int(now), [rollout(1)])
    recorder.settle()
    assert len(read(tmp_path / "slow", 1)) == 2
    clock.now = 132.0
    recorder.write_old()  # as the driver does now and then, where no engine delivers
    recorder.settle()
    assert len(read(tmp_path / "slow", 1)) == 3


def test_a_shard_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "recorded").write_text("in the way")
    recorder = Recorder(tmp_path, ORIGIN, 0)
    deliver(recorder, 0, [rollout(1)])
    recorder.end_batch()
    for _ in range(2):  # nor is it told to one who asks, and not to the next
        with pytest.raises(OSError, match="recorded"):
            recorder.settle()
    with pytest.raises(OSError, match="recorded"):
        recorder.close()


def test_a_recording_that_begins_in_mid_run_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Recorder(tmp_path / "new", ORIGIN, 0).close()
    (tmp_path / "resumed" / "recorded").mkdir(parents=True)
    Recorder(tmp_path / "resumed", ORIGIN, 4).close()
    assert not caplog.records
    Recorder(tmp_path, ORIGIN, 4).close()
    assert "begins after rollout batch 4" in caplog.text


def test_experts_are_not_held_until_a_shard_is_written(tmp_path: Path) -> None:
    """They may be many times the rest, and are not recorded."""
    recorder = Recorder(tmp_path, ORIGIN, 0)
    experts = torch.zeros(9, 48, 8, dtype=torch.uint8)
    deliver(recorder, 0, [dataclasses.replace(rollout(1), routed_experts=experts)])
    ((_, scored, _),) = recorder._pending
    assert scored.rollout is not None
    assert scored.rollout.routed_experts is None
    recorder.close()


def test_rewards_that_are_no_numbers_stay_what_they_are(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path, ORIGIN, 0)
    deliver(recorder, 0, [rollout(1, float("nan")), rollout(2)])
    recorder.close()
    recording = Recording([tmp_path], 2, LIMITS)
    assert recording.problems == {"not_finite": 1}
    assert numpy.isfinite(recording.read(0)[1].reward)  # type: ignore[union-attr]
