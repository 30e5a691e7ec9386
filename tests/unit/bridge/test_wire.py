"""What is sent between processes arrives as it was, in less than a pickle takes."""

import dataclasses
import json
import math
import pickle
import runpy
from pathlib import Path

import pytest
import torch
from openrlhf.trainer.ppo_utils.experience import Experience
from ray.exceptions import ObjectStoreFullError, OutOfDiskError, RayError

from vespo_openrlhf.bridge import wire
from vespo_openrlhf.bridge.errors import StoppedError
from vespo_openrlhf.bridge.wire import Rollout, Share, TrainingExperience


def assert_same(left: object, right: object) -> None:
    if isinstance(left, torch.Tensor):
        assert isinstance(right, torch.Tensor)
        torch.testing.assert_close(left, right, rtol=0, atol=0, equal_nan=True)
    elif isinstance(left, dict):
        assert isinstance(right, dict)
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    else:
        assert left == right


def assert_same_experience(left: Experience, right: Experience) -> None:
    for name in type(left).__dataclass_fields__:
        assert_same(getattr(left, name), getattr(right, name))


@pytest.mark.parametrize("verdict", [1.0, 0.5, None])
def test_a_rollout_arrives_as_it_was(make_group, verdict) -> None:
    group = make_group(3, [verdict, 0.0], [verdict, 0.0])
    for rollout in group.payloads:
        arrived = pickle.loads(pickle.dumps(rollout))
        assert_same_experience(rollout.experience, arrived.experience)
        assert arrived.request_ids == rollout.request_ids
        assert arrived.turns == ()


def test_turns_arrive_as_they_were_and_older_checkpoints_have_none(make_group) -> None:
    (plain,) = make_group(3, [1.0]).payloads
    rollout = dataclasses.replace(plain, turns=((2, 5, 0.5), (5, 9, math.nan)))
    arrived = pickle.loads(pickle.dumps(rollout))
    assert arrived.turns[0] == (2, 5, 0.5)
    assert arrived.turns[1][:2] == (5, 9)
    assert math.isnan(arrived.turns[1][2])
    assert len(pickle.dumps(rollout)) < len(pickle.dumps(plain)) + 64
    make, written = rollout.__reduce__()
    for count in (2, 3):
        assert make(dict(written[0]), *written[1:count]).turns == ()


@pytest.mark.parametrize(
    "tensor",
    [
        torch.tensor([[0, 255, 7]]),
        torch.tensor([[-1, 2**31 - 1]]),
        torch.tensor([[2**31, -(2**40)]]),
        torch.tensor([[True, False]]),
        torch.tensor([[0.1, float("nan"), -float("inf")]]),
        torch.tensor([[0.1, 3.0]], dtype=torch.bfloat16),
        torch.tensor([[0.1, 3.0]], dtype=torch.float64).t(),
        torch.zeros(1, 0, dtype=torch.long),
        torch.tensor([[2**62]]),
        torch.arange(2**17)[None],  # from here on, a buffer of Ray's
        torch.linspace(0, 1, 2**17)[None],
    ],
    ids=str,
)
def test_every_tensor_arrives_as_it_was(tensor: torch.Tensor) -> None:
    buffers: list = []
    rollout = Rollout(Experience(sequences=tensor), ())
    sent = pickle.dumps(rollout, protocol=5, buffer_callback=buffers.append)
    received = [memoryview(buffer.raw()).toreadonly() for buffer in buffers]
    arrived = pickle.loads(sent, buffers=received).experience.sequences
    assert_same(tensor, arrived)
    arrived += 1 if arrived.dtype != torch.bool else False  # it may be written to


def test_items_arrive_as_they_were_without_their_padding() -> None:
    items = [
        TrainingExperience(
            sequences=torch.tensor([5, 6, 7, 0]),
            attention_mask=torch.tensor([1] * (4 - pad) + [0] * pad),
            action_mask=torch.tensor([0, 1, 1]),
            advantages=torch.tensor([0.0, 1.5, 1.5]),
            rewards=torch.tensor(float(pad)),
            prompts=["p"],
            mm_train_inputs=[{"pixels": torch.ones(2, 2)}],
            info={"reward": torch.tensor(float(pad))},
            lag=torch.tensor(2.0),
            turns=torch.tensor([0, 1, 2 - pad]),
        )
        for pad in (0, 1)
    ]
    before = [item.sequences.clone() for item in items]
    full, padded = pickle.loads(pickle.dumps(Share(items)))
    assert_same_experience(full, items[0])
    assert padded.sequences.tolist() == [5, 6, 7]
    assert padded.action_mask.tolist() == [0, 1]
    assert padded.advantages.tolist() == [0.0, 1.5]
    assert padded.turns.tolist() == [0, 1]
    assert padded.rewards == 1.0
    assert padded.info["reward"] == 1.0
    assert_same(padded.mm_train_inputs[0], {"pixels": torch.ones(2, 2)})
    assert [item.sequences.tolist() for item in items] == [row.tolist() for row in before]


def test_items_without_logs() -> None:
    items = [TrainingExperience(sequences=torch.tensor([1, 2]), attention_mask=torch.ones(2))] * 2
    first, second = pickle.loads(pickle.dumps(Share(items)))
    assert first.info == second.info == {}
    assert first.info is not second.info


def test_numbers_take_less_than_tensors(make_group) -> None:
    (rollout, _) = make_group(3, [1.0, 0.0]).payloads
    plain = pickle.dumps(vars(rollout.experience))
    assert len(pickle.dumps(rollout)) < len(plain) / 4


def test_the_benchmark_of_a_samples_way_runs(capsys: pytest.CaptureFixture[str]) -> None:
    run = runpy.run_path(str(Path(__file__).parents[3] / "scripts" / "bench_samples.py"))
    run["main"].__globals__.update(LENGTHS=(10, 20))
    run["main"](["--json", "--samples", "4", "--repeats", "1"])
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["way"], row["tokens"]) for row in rows] == [
        (way, tokens) for way in ("to driver", "to rank") for tokens in (10, 20)
    ]
    assert all(row["bytes_ratio"] < 1 for row in rows)


def test_a_rollout_knows_the_bytes_of_its_experts_wherever_they_are(
    make_group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire.ray, "put", lambda rows: "a reference")  # Ray is not started here
    (plain,) = make_group(0, [1.0]).payloads
    assert plain.routed_bytes == 0
    for tokens, element in ((10, torch.uint8), (200, torch.uint8), (200, torch.int16)):
        rows = torch.zeros(tokens, 48, 8, dtype=element)
        rollout = dataclasses.replace(plain, routed_experts=rows)
        parked = rollout.parked()
        assert (parked.routed_experts == "a reference") == (tokens == 200)
        assert rollout.routed_bytes == parked.routed_bytes == tokens * 384 * element.itemsize


@pytest.mark.parametrize("kind", [OutOfDiskError, ObjectStoreFullError])
def test_a_full_object_store_ends_the_run_and_no_engine(
    make_group, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """An error of Ray's is an engine's death to whoever reads its stream. The store is a stand-in:
    to fill a disk is more than a test may do."""

    def put(rows: object) -> None:
        raise kind("full")

    monkeypatch.setattr(wire.ray, "put", put)
    (plain,) = make_group(0, [1.0]).payloads
    large = dataclasses.replace(plain, routed_experts=torch.zeros(200, 48, 8, dtype=torch.uint8))
    with pytest.raises(StoppedError, match=r"no room .* leave --moe\.routing_replay out") as caught:
        large.parked()
    assert not isinstance(caught.value, RayError)


def test_without_references_ray_is_not_asked(make_group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no Ray, asking it starts one; an asynchronous actor that asks is warned."""

    def ask(references: list) -> None:
        pytest.fail("Ray was asked")

    monkeypatch.setattr(wire.ray, "get", ask)
    (rollout,) = make_group(0, [1.0]).payloads
    rows = torch.zeros(2, 1, 2, dtype=torch.uint8)
    pickle.dumps(rollout)
    pickle.dumps(dataclasses.replace(rollout, routed_experts=rows))
    assert wire.fetched([None, rows]) == [None, rows]
