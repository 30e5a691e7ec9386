"""What a run writes about its samples, and what a resume finds of it."""

import json
from pathlib import Path

import torch

from vespo_openrlhf.bridge.records import BufferedRollouts, JsonLines, stamps, write_atomically
from vespo_openrlhf.scheduling import Batch, TrainStep


def test_stamps_of_a_step_say_what_sampled_a_group_and_when_it_is_used(make_group) -> None:
    groups = [make_group(t, [1.0, 0.0, None], oldest=t) for t in range(4)]
    batch = Batch(5, 12, ((groups[0], groups[1]), (groups[2],), (groups[3],)))
    records = list(stamps(TrainStep(batch, 1, 3)))
    assert [(r["ticket"], r["batch"], r["update"]) for r in records] == [(2, 5, 13), (3, 5, 14)]
    record = json.loads(json.dumps(records[0]))
    length = [spans[1][1] for spans in groups[2].spans]
    assert record["spans"] == [[[2, 1], [3, tokens]] for tokens in length]
    assert record["completed_version"] == 3
    assert record["dispatched_version"] == 2
    assert (record["epoch"], record["row"], record["prompt"]) == (0, 2, "p2")
    assert record["rewards"] == [1.0, 0.0, None]
    assert record["requests"] == [["request-21"], ["request-22"], None]


def test_a_resume_cuts_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "new" / "samples.jsonl"
    lines = JsonLines(path, "update")
    lines.resume_at(0)  # nothing there yet
    assert not path.exists()
    for update in range(5):
        lines.append(iter([{"update": update, "ticket": t} for t in range(2)]))
    with open(path, "a") as file:
        file.write('{"update": 1, "tick')  # the kill
    again = JsonLines(path, "update")
    again.resume_at(3)
    again.append(iter([{"update": 3, "ticket": 7}]))
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    expected = [(u, t) for u in range(3) for t in range(2)] + [(3, 7)]
    assert [(r["update"], r["ticket"]) for r in kept] == expected


def test_records_without_the_field_stay(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path, "step")
    lines.append(iter([{"note": "hello"}, {"step": 4}]))
    lines.resume_at(4)
    assert path.read_text() == '{"note": "hello"}\n'


def test_buffered_rollouts_come_back_and_go_with_their_checkpoint(make_group, tmp_path) -> None:
    checkpoints = tmp_path / "checkpoints"
    group = make_group(3, [1.0, None])
    buffered = BufferedRollouts(checkpoints)
    assert buffered.load("global_step1") == {}
    for step in (1, 2):
        (checkpoints / "_actor" / f"global_step{step}").mkdir(parents=True)
        buffered.save(f"global_step{step}", {3: group.payloads} if step == 1 else {})
    loaded = BufferedRollouts(checkpoints).load("global_step1")
    assert loaded.keys() == {3}
    rollout, missing = loaded[3]
    assert missing is None
    assert rollout.request_ids == ("request-31",)
    original = group.payloads[0].experience
    assert torch.equal(rollout.experience.sequences, original.sequences)
    assert torch.equal(rollout.experience.rollout_log_probs, original.rollout_log_probs)
    # OpenRLHF keeps so many checkpoints, and deletes the oldest.
    (checkpoints / "_actor" / "global_step1").rmdir()
    buffered.prune()
    assert [path.name for path in (checkpoints / "rollouts").iterdir()] == ["global_step2.pt"]
    assert buffered.load("global_step2") == {}


def test_a_text_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    for text in ("old", "new"):
        write_atomically(path, text)
        assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_buffered_rollouts_that_are_missing_are_missed(tmp_path, caplog) -> None:
    assert BufferedRollouts(tmp_path).load("global_step8") == {}
    assert f"{tmp_path}/rollouts/global_step8.pt is not on this node" in caplog.text
