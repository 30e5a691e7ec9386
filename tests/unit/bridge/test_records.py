"""What a run writes about its samples, and what a resume finds of it."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from vespo_openrlhf.bridge import events, wire
from vespo_openrlhf.bridge.run.records import append_lines, stamps
from vespo_openrlhf.bridge.run.state import BufferedRollouts
from vespo_openrlhf.bridge.wire import Rollout
from vespo_openrlhf.scheduling import Batch, TrainStep


def test_stamps_of_a_step_say_what_sampled_a_group_and_when_it_is_used(
    make_group, tmp_path: Path
) -> None:
    groups = [make_group(t, [1.0, 0.0, None], oldest=t) for t in range(4)]
    batch = Batch(5, 12, ((groups[0], groups[1]), (groups[2],), (groups[3],)))
    step = TrainStep(batch, 1, 3)
    records = list(stamps(step))
    assert [(r["ticket"], r["batch"], r["update"]) for r in records] == [(2, 5, 13), (3, 5, 14)]
    record = json.loads(json.dumps(records[0]))
    length = [spans[1][1] for spans in groups[2].spans]
    assert record["spans"] == [[[2, 1], [3, tokens]] for tokens in length]
    assert record["completed_version"] == 3
    assert record["dispatched_version"] == 2
    assert (record["epoch"], record["row"], record["prompt"]) == (0, 2, "p2")
    assert record["rewards"] == [1.0, 0.0, None]
    assert record["requests"] == [["request-21"], ["request-22"], None]
    path = tmp_path / "new" / "samples.jsonl"
    for _ in range(2):
        append_lines(path, stamps(step))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["ticket"] for line in lines] == [2, 3, 2, 3]


def test_buffered_rollouts_come_back(make_group, tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    group = make_group(3, [1.0, None])
    buffered = BufferedRollouts(checkpoints)
    assert buffered.load("global_step1") == {}
    for step in (1, 2):
        buffered.save(f"global_step{step}", {3: group.payloads} if step == 1 else {})
    loaded = BufferedRollouts(checkpoints).load("global_step1")
    assert loaded.keys() == {3}
    rollout, missing = loaded[3]
    assert missing is None
    assert rollout.request_ids == ("request-31",)
    original = group.payloads[0].experience
    assert torch.equal(rollout.experience.sequences, original.sequences)
    assert torch.equal(rollout.experience.rollout_log_probs, original.rollout_log_probs)
    assert BufferedRollouts(checkpoints).load("global_step2") == {}


def test_large_experts_of_buffered_rollouts_are_parked_again(
    make_group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they were when they came: the driver keeps rollouts by the thousand."""
    monkeypatch.setattr(wire.ray, "put", lambda rows: "a reference")  # Ray is not started here
    (small,) = make_group(3, [1.0]).payloads
    rows = torch.zeros(200, 48, 8, dtype=torch.uint8)
    large = dataclasses.replace(small, routed_experts=rows)
    buffered = BufferedRollouts(tmp_path)
    buffered.save("global_step1", {3: [large, None, small]})
    parked, missing, whole = buffered.load("global_step1")[3]
    assert parked.routed_experts == "a reference"
    assert parked.routed_bytes == rows.nbytes
    assert missing is None
    assert whole.routed_experts is None


def test_rollouts_that_an_older_version_has_buffered_come_back(
    make_group, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were plain dataclasses of `events` then, and pickled as those."""
    new = make_group(3, [1.0]).payloads[0]
    old_class = dataclasses.make_dataclass("Rollout", ["experience", "request_ids"], frozen=True)
    old_class.__module__ = events.__name__
    monkeypatch.setattr(events, "Rollout", old_class, raising=False)
    buffered = BufferedRollouts(tmp_path)
    buffered.save("global_step1", {3: [old_class(new.experience, new.request_ids)]})
    monkeypatch.delattr(events, "Rollout")
    (rollout,) = buffered.load("global_step1")[3]
    assert isinstance(rollout, Rollout)
    assert rollout.request_ids == new.request_ids
    assert torch.equal(rollout.experience.sequences, new.experience.sequences)


def test_buffered_rollouts_that_are_missing_are_missed(tmp_path, caplog) -> None:
    assert BufferedRollouts(tmp_path).load("global_step8") == {}
    assert f"{tmp_path}/rollouts/global_step8.pt is not on this node" in caplog.text
