import itertools

import pytest

from vespo_openrlhf.scheduling.groups import Batch, Group
from vespo_openrlhf.scheduling.ledger import Prompt
from vespo_openrlhf.scheduling.live import LiveGroups

tickets = itertools.count()


def group(version, *, lag=8, waited_for=True, oldest=None):
    """A group of two samples, dispatched at `version`; complete if `oldest` is given."""
    ticket = next(tickets)
    prompt = Prompt(0, ticket, str(ticket))
    made = Group(ticket, prompt, 2, "engine", version, lag, waited_for, 0.0)
    if oldest is not None:
        for sample in range(2):
            made.generate(sample, [(oldest, 10)], oldest, f"payload {sample}", 1.0)
            made.settle(sample, 1.0)
    return made


def test_the_oldest_token_decides_not_the_dispatch():
    """It waited in the engine's queue while the weights changed: younger than its dispatch."""
    live = LiveGroups()
    late = group(0, oldest=3)
    live.add_complete(late)
    assert late.deadline == 3 + 8


def test_by_deadline():
    live = LiveGroups()
    old, middle, young = (group(v, oldest=v, waited_for=v == 1) for v in (0, 1, 2))
    for made in (young, old, middle):
        live.add_complete(made)
    assert live.complete_groups() == [old, middle, young]
    assert set(live.done.before(10)) == {old, middle}
    assert list(live.done.waited_for()) == [(8, 0), (9, 1), (10, 0)]
    live.done.remove(middle)
    assert middle not in live.done
    assert old in live.done
    assert (live.complete, live.in_flight, live.total) == (2, 0, 2)


def test_a_sample_happens_once():
    made = group(0)
    with pytest.raises(ValueError, match="no sample 0 to score"):
        made.settle(0, 1.0)
    made.generate(0, [(0, 5)], 0, None, 1.0)
    with pytest.raises(ValueError, match="no sample 0 to generate"):
        made.generate(0, [(0, 5)], 0, None, 1.0)
    with pytest.raises(ValueError, match="no sample 2 to generate"):
        made.generate(2, [(0, 5)], 0, None, 1.0)
    assert made.awaits_reward(0)
    assert made.settle(0, None)
    assert not made.settle(0, 1.0)
    assert (made.unfinished, made.unscored, made.scored) == (1, 1, 0)


def test_lag_of_a_batch():
    mini_batches = ((group(0, oldest=0),), (group(0, oldest=2),), (group(0, oldest=1),))
    batch = Batch(index=3, version=4, mini_batches=mini_batches)
    assert batch.max_lag == 5
    assert [made.oldest_version for made in batch.groups] == [0, 2, 1]
