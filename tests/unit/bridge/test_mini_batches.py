"""What the scheduler planned and what each rank trains, on OpenRLHF's own batching code."""

import dataclasses
import math
import pickle
from types import SimpleNamespace

import pytest
import torch
from openrlhf.trainer.ppo_utils import NaiveReplayBuffer
from openrlhf.trainer.ppo_utils.experience import Experience
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker

from vespo_openrlhf.bridge.samples.mini_batches import (
    for_ranks,
    lags,
    micro_batches,
    to_items,
    to_samples,
    turns,
    unscored_logs,
)
from vespo_openrlhf.bridge.trainer import ScheduledTrainer
from vespo_openrlhf.bridge.wire import Share
from vespo_openrlhf.scheduling import Batch

BATCH_SIZES = {
    "fixed": {"train": {"dynamic_batch_enable": False}, "rollout": {"micro_batch_size": 3}},
    "dynamic": {"train": {"dynamic_batch_enable": True}, "rollout": {"max_tokens_per_gpu": 24}},
}


def upstream_batches(samples: list, sizes: str) -> list:
    """The samples in the batches that OpenRLHF makes of them, with the indices it gives them."""
    options = {name: SimpleNamespace(**values) for name, values in BATCH_SIZES[sizes].items()}
    args = SimpleNamespace(
        **options,
        actor=SimpleNamespace(num_nodes=1, num_gpus_per_node=1),
        ds=SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1),
    )
    maker = SimpleNamespace(args=args, tokenizer=SimpleNamespace(pad_token_id=0))
    return RemoteExperienceMaker.split_rollout_samples(maker, samples)


def planned_items(batch: Batch, sizes: str, groups_per_update: int = 2) -> list:
    """Items by update, by way of OpenRLHF's batches."""
    batches = upstream_batches(to_samples(batch, groups_per_update), sizes)
    return to_items(batches, lags(batch, groups_per_update), len(batch.mini_batches))


def names(items: list) -> list[int]:
    """Which samples these are: the first token of each."""
    return [int(item.sequences.flatten()[0]) for item in items]


def arrived(items: list, micro_batch: int = 2) -> NaiveReplayBuffer:
    """The buffer of the rank that these are sent to."""
    buffer = NaiveReplayBuffer(micro_batch)
    buffer.items += pickle.loads(pickle.dumps(Share(items)))
    return buffer


@pytest.fixture
def batch(make_group) -> Batch:
    """Two mini-batches of two groups of four, used at the versions 6 and 7."""
    groups = [make_group(t, [1.0, 0.0, 1.0, 0.5], oldest=t) for t in range(4)]
    return Batch(3, 6, ((groups[2], groups[0]), (groups[3], groups[1])))


def test_batches_of_any_size_come_back_in_the_order_of_the_plan(batch) -> None:
    samples = to_samples(batch, 2)
    planned = [t * 10 + i + 1 for t in (2, 0, 3, 1) for i in range(4)]
    assert names(samples) == planned
    for sizes in BATCH_SIZES:
        batches = upstream_batches(samples, sizes)
        assert len(batches) > 2
        if sizes == "dynamic":
            shuffled = [index for each in batches for index in each.index]
            assert shuffled != sorted(shuffled)
        first, second = to_items(batches, lags(batch, 2), 2)
        assert names(first) + names(second) == planned
        assert len(first) == len(second) == 8


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("sizes", BATCH_SIZES)
def test_all_ranks_together_train_mini_batch_j_in_update_j(batch, ranks, sizes) -> None:
    updates = planned_items(batch, sizes)
    buffers = [arrived(items).items for items in for_ranks(updates, ranks)]
    per_update = 8 // ranks
    for j, mini_batch in enumerate(batch.mini_batches):
        slices = [items[j * per_update : (j + 1) * per_update] for items in buffers]
        assert [len(part) for part in slices] == [per_update] * ranks
        trained = [name for part in slices for name in names(part)]
        assert sorted(trained) == sorted(
            g.ticket * 10 + i + 1 for g in mini_batch for i in range(4)
        )
        for part in slices:  # of every group as many
            tickets = [(name - 1) // 10 for name in names(part)]
            assert len({tickets.count(ticket) for ticket in tickets}) == 1


def test_what_padded_an_item_does_not_arrive(batch) -> None:
    (items,) = for_ranks(planned_items(batch, "dynamic"), 1)
    buffer = arrived(items)
    originals = {names([p.experience])[0]: p.experience for g in batch.groups for p in g.payloads}
    for item in buffer.items:
        original = originals[names([item])[0]]
        for field in ("sequences", "action_mask", "rollout_log_probs"):
            assert torch.equal(getattr(item, field), getattr(original, field)[0])


def test_items_that_do_not_divide_among_the_ranks(batch) -> None:
    updates = planned_items(batch, "fixed")
    with pytest.raises(ValueError, match=r"--train\.batch_size 8 does not divide among 3"):
        for_ranks(updates, 3)


def test_the_lag_of_a_sample_is_that_of_its_oldest_token_at_its_update(batch) -> None:
    expected = [6 - 2] * 4 + [6 - 0] * 4 + [7 - 3] * 4 + [7 - 1] * 4
    assert lags(batch, 2) == expected
    (items,) = for_ranks(planned_items(batch, "dynamic"), 1)
    (trained,) = micro_batches(arrived(items, 16))
    assert trained.lag.tolist() == expected
    assert "lag" not in trained.info


def test_a_buffer_is_trained_in_its_order_to_the_end(batch) -> None:
    updates = planned_items(batch, "fixed")
    buffer = arrived([item for update in updates for item in update], 3)
    planned = names(buffer.items)
    trained = list(micro_batches(buffer))
    assert [len(part.sequences) for part in trained] == [3, 3, 3, 3, 3, 1]
    assert [int(row[0]) for part in trained for row in part.sequences] == planned
    buffer.dynamic_batch, buffer.dynamic_indices = True, [[3, 1], [0]]
    first, second = micro_batches(buffer)
    assert first.sequences[:, 0].tolist() == [planned[3], planned[1]]
    assert second.lag.tolist() == [buffer.items[0].lag.item()]


# --- samples without a verdict -------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "place"),
    [
        ([1.0, "lost", 0.0, 0.5], 1),
        (["lost", 1.0, 0.0, 0.5], 0),
        ([None, 1.0, 0.0, 0.5], 0),
        ([1.0, 0.0, 0.5, None], 3),
        ([math.nan, 1.0, 0.0, 0.5], 0),
    ],
    ids=["lost", "lost-first", "no-verdict-first", "no-verdict", "nan-first"],
)
def test_an_unscored_sample_has_no_action_tokens_and_no_numbers(
    make_group, verdicts, place
) -> None:
    scored = [1.0, 0.0, 0.5]
    rewards: list = [*scored[:place], None, *scored[place:]]
    group = make_group(0, rewards, verdicts)
    samples = to_samples(Batch(0, 0, ((group,),)), 1)
    unscored = samples.pop(place)
    assert not unscored.action_mask.any()
    for value in (unscored.rewards, unscored.scores, unscored.info["reward"]):
        assert value.isnan().tolist() == [True]
    assert [s.rewards.tolist() for s in samples] == [[r] for r in scored]
    assert all(sample.action_mask.any() for sample in samples)
    # Alike in every field, or OpenRLHF cannot batch them.
    for sample in samples:
        assert sample.info.keys() == unscored.info.keys()
        assert all(value.isfinite().all() for value in sample.info.values())
    whole = Experience.concat_experiences([unscored, *samples], 0)
    assert all(len(value) == 4 for value in whole.info.values())
    # What the scheduler keeps is as it was: the samples log and a second resume read it.
    for payload, verdict in zip(group.payloads, verdicts, strict=True):
        if payload is not None:
            assert payload.experience.action_mask.any()
            assert (payload.experience.rewards is None) == (verdict is None)


def test_why_samples_have_no_verdict_is_seen_all_the_same(make_group) -> None:
    groups = [make_group(t, [1.0, None, None], [1.0, math.nan, "lost"]) for t in range(3)]
    for group, why in zip(groups, (1.0, 0.0, math.nan), strict=True):
        group.payloads[1].experience.info["overloaded"] = torch.tensor([why])
    logs = unscored_logs(Batch(0, 0, ((groups[0], groups[1]), (groups[2],))))
    assert logs["unscored/overloaded"] == 0.5
    assert logs["unscored/well_formed"] == 1.0
    assert "unscored/reward" not in logs  # NaN in all
    assert unscored_logs(Batch(0, 0, ((make_group(0, [1.0, None]),),))) == {}


def test_with_a_reward_model_all_rewards_are_still_to_come(make_group) -> None:
    """The engine reports 0 for "generated", and the experience has no reward yet."""
    group = make_group(0, [0.0, None, 0.0, 0.0], [None, "lost", None, None])
    samples = to_samples(Batch(0, 0, ((group,),)), 1)
    assert all(sample.rewards is None and "reward" not in sample.info for sample in samples)
    assert [bool(sample.action_mask.any()) for sample in samples] == [True, False, True, True]


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("sizes", BATCH_SIZES)
def test_samples_may_log_what_others_do_not(make_group, ranks, sizes) -> None:
    """The names of the whole rollout batch are known in every mini-batch, and to every rank."""
    groups = [make_group(t, [1.0, 0.0, None, 0.5]) for t in range(4)]
    logs: dict = {1: {"error": True}, 2: {"steps": 3}, 32: {"steps": 2.5, "words": [1, 2]}}
    for group in groups:
        for payload in filter(None, group.payloads):
            name = names([payload.experience])[0]
            if name in logs:
                info = payload.experience.info
                del info["well_formed"]
                info |= {key: torch.tensor([value]) for key, value in logs[name].items()}
    batch = Batch(0, 0, (tuple(groups[:2]), tuple(groups[2:])))
    updates = planned_items(batch, sizes)
    for items in for_ranks(updates, ranks):
        for item in arrived(items).items:
            scored = bool(item.action_mask.any())
            logged = logs.get(names([item])[0], {"well_formed": 1}) if scored else {}
            for key in ("error", "steps", "words", "well_formed"):
                value = item.info[key]
                if isinstance(logged.get(key, []), list):  # nothing, or no single number
                    assert value.isnan()
                else:
                    assert value == logged[key]


def test_fields_that_some_samples_lack(make_group) -> None:
    group = make_group(0, [1.0, 0.0])
    group.payloads[0].experience.scores = None
    first, second = to_samples(Batch(0, 0, ((group,),)), 1)
    assert first.scores.isnan().all()
    assert second.scores.tolist() == [0.0]
    assert group.payloads[0].experience.scores is None


def test_a_short_last_mini_batch_is_filled_with_what_counts_for_nothing(make_group) -> None:
    groups = [make_group(t, [1.0, 0.0]) for t in range(4)]
    batch = Batch(9, 0, ((groups[0], groups[1], groups[2]), (groups[3],)))
    first, second = planned_items(batch, "fixed", 3)
    assert len(first) == len(second) == 6
    assert names(second)[:2] == [31, 32]
    assert [bool(item.action_mask.any()) for item in second] == [True] * 2 + [False] * 4
    assert all(item.action_mask.any() for item in first)
    assert {tuple(sorted(item.info)) for item in first + second} == {tuple(sorted(first[0].info))}
    assert [g.payloads[0].experience.action_mask.any() for g in groups]


def test_every_action_comes_with_the_turn_that_sampled_it(make_group) -> None:
    """Turns side by side, one cut off at the end, a sample of unknown turns, one that is lost; in
    micro-batches that pad them."""
    group = make_group(0, [1.0, 0.0, None, 0.5], [1.0, 0.0, "lost", 0.5])
    told = {0: ((2, 3, 0.5), (3, 4, 0.5)), 3: ((2, 3, math.nan), (4, 99, math.nan))}
    for place, each in told.items():
        group.payloads[place] = dataclasses.replace(group.payloads[place], turns=each)
    batch = Batch(0, 0, ((group,),))
    known = turns(batch, 1)
    assert known == [told[0], (), told[0], told[3]]
    batches = upstream_batches(to_samples(batch, 1), "dynamic")
    (items,) = to_items(batches, lags(batch, 1), 1, turns=known)
    found = [
        (row[mask.bool()].tolist(), len(row) == mask.shape[0])
        for micro_batch in micro_batches(arrived(items, 4))
        for row, mask in zip(micro_batch.turns, micro_batch.action_mask, strict=True)
    ]
    assert found == [
        ([1, 2], True),
        ([0] * 7, True),
        ([], True),
        ([1, 0, 2], True),
    ]


@pytest.mark.parametrize("replays", [True, False])
def test_a_batch_with_replay_tells_the_bytes_of_its_experts_and_with_turns_has_them(
    make_group, replays
) -> None:
    group = make_group(0, [1.0, 0.0, None], [1.0, 0.0, "lost"])
    for place, rows in enumerate((3, 5)):  # of 2 layers and 2 experts a token
        experts = torch.zeros(rows, 2, 2, dtype=torch.uint8)
        group.payloads[place] = dataclasses.replace(
            group.payloads[place], routed_experts=experts, turns=((2, 4, 1.0),)
        )
    logged: list[dict] = []
    made = SimpleNamespace(
        make_experience_batch=lambda samples: upstream_batches(samples, "fixed"),
        teacher_states=None,
    )
    trainer = SimpleNamespace(  # of the driver what makes a batch, without engines and actors
        _config=SimpleNamespace(groups_per_update=1),
        _replays=replays,
        _by_turn=not replays,
        experience_maker=made,
        tokenizer=SimpleNamespace(decode=lambda *_, **__: "text"),
        _log=SimpleNamespace(begin_batch=lambda metrics, _: logged.append(metrics)),
    )
    ScheduledTrainer._make_experience(trainer, Batch(0, 0, ((group,),)))
    (metrics,) = logged
    assert metrics.get("routing/bytes") == (8 * 2 * 2 if replays else None)
    assert made.turns == (None if replays else [((2, 4, 1.0),)] * 3)
    assert [item.turns is None for item in trainer._updates[0]] == [replays] * 3
