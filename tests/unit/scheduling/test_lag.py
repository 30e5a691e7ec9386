import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vespo_openrlhf.scheduling.lag import (
    LagBudget,
    LagOptions,
    TokenVersions,
    check_spans,
    minimum_lag,
)


@pytest.mark.parametrize(
    ("updates", "sync_every", "expected"),
    [(1, 1, 0), (4, 4, 3), (4, 1, 3), (4, 2, 3), (4, 8, 7), (4, 6, 7), (4, 3, 5), (1, 5, 4)],
)
def test_minimum_lag_by_hand(updates, sync_every, expected):
    assert minimum_lag(updates, sync_every) == expected


@given(st.integers(1, 12), st.integers(1, 12))
def test_minimum_lag_is_that_of_the_synchronous_loop(updates, sync_every):
    """Played out: engines get every multiple of k, a batch is generated where the last ended."""
    worst = 0
    for batch in range(2 * updates * sync_every):
        sampled_with = batch * updates // sync_every * sync_every
        worst = max(worst, batch * updates + updates - 1 - sampled_with)
    assert minimum_lag(updates, sync_every) == worst


def test_a_bound_that_cannot_be_kept_is_refused_with_the_arithmetic():
    with pytest.raises(ValueError, match=r"lag\.max 2 cannot be kept") as caught:
        LagBudget(limit=2, updates_per_batch=4, groups_per_update=8, sync_every=6)
    assert "3 + 4 = 7 > 2" in str(caught.value)
    assert "Set lag.max to at least 7" in str(caught.value)
    assert "lag.sync_every to 4" in str(caught.value)
    assert LagBudget(7, 4, 8, 6).minimum == 7


def test_advice_names_only_what_helps():
    with pytest.raises(ValueError, match="cannot be kept") as caught:
        LagBudget(limit=0, updates_per_batch=1, groups_per_update=8, sync_every=2)
    assert "fewer updates" not in str(caught.value)


def test_room_is_areals_rule():
    """One batch per update: at most u + L + 1 batches admitted in all."""
    budget = LagBudget(limit=3, updates_per_batch=1, groups_per_update=10, sync_every=1)
    version, handed_over = 5, 6
    assert budget.room(version + 3, handed_over) == (version + 3 + 1 - handed_over) * 10
    assert budget.room(4, 6) == 0


def test_default_lets_one_batch_be_generated_while_one_trains():
    budget = LagBudget.from_options(LagOptions(), updates_per_batch=4, groups_per_update=2)
    assert (budget.limit, budget.sync_every) == (7, 4)
    # The engines have version 0 and batch 0 is with the trainer: there is room for a whole batch.
    assert budget.room(0 + 7, 4) == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max": -1}, "at least 0"),
        ({"on_stale": "hope"}, "wait, drop, keep"),
        ({"sync_every": 0}, "at least 1"),
        ({"target_ess": 1.0}, "above 0 and below 1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        LagOptions(**options)


@pytest.mark.parametrize("spans", [[], [(4, 5)], [(9, 5)], [(6, 5), (5, 5)], [(5, -1)]], ids=str)
def test_spans_that_cannot_be(spans):
    with pytest.raises(ValueError, match=r"version"):
        check_spans(spans, dispatched=5, newest=8)


def test_spans_that_can():
    assert check_spans([(5, 3), (8, 1)], dispatched=5, newest=8) == ((5, 3), (8, 1))


def test_token_versions_against_a_token_by_token_record():
    """Counts at the updates tell what a record of every single token tells."""
    for seed in range(50):
        dice = random.Random(seed)
        versions = TokenVersions(0)
        tokens: dict[int, list[int]] = {}
        for moment in range(60):
            action = dice.choice(["start", "decode", "decode", "update", "finish"])
            if action == "start":
                tokens[moment] = []
            elif action == "decode":
                for record in tokens.values():
                    record.extend([versions.version] * dice.randint(0, 3))
            elif action == "update":
                counts = {name: len(record) for name, record in tokens.items() if record}
                versions.update(versions.version + dice.randint(1, 3), counts)
            elif tokens:
                name = dice.choice(list(tokens))
                record = tokens.pop(name)
                spans = versions.finish(name, len(record))
                assert [v for v, count in spans for _ in range(count)] == record


def test_token_versions_refuse_what_cannot_be():
    versions = TokenVersions(3)
    versions.update(5, {"a": 10})
    with pytest.raises(ValueError, match="had 10 before"):
        versions.finish("a", 9)
    with pytest.raises(ValueError, match="version 4 after version 5"):
        versions.update(4, {})


def test_a_response_that_is_gone_at_an_update_is_forgotten():
    versions = TokenVersions(3)
    versions.update(5, {"a": 10})
    versions.update(6, {})
    assert versions.finish("a", 2) == ((6, 2),)
