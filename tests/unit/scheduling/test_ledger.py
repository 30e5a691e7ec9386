import json

import pytest

from vespo_openrlhf.scheduling import PromptLedger
from vespo_openrlhf.scheduling.ledger import MAX_FAILURES

NAMES = ["a", "b", "c", "d"]


def test_every_prompt_once_per_epoch_in_a_seeded_order():
    ledger = PromptLedger(NAMES, epochs=3, shuffle_seed=1)
    drawn = [ledger.draw() for _ in range(12)]
    assert ledger.exhausted
    orders = [[p.name for p in drawn if p.epoch == epoch] for epoch in range(3)]
    assert all(sorted(order) == NAMES for order in orders)
    assert len({tuple(order) for order in orders}) > 1
    again = PromptLedger(NAMES, epochs=3, shuffle_seed=1)
    assert [again.draw() for _ in range(12)] == drawn


def test_what_comes_back_goes_first():
    ledger = PromptLedger(NAMES)
    first = ledger.draw()
    ledger.drop(first)
    assert ledger.draw() == first
    assert ledger.drawn == 1


def test_a_prompt_is_settled_once():
    ledger = PromptLedger(NAMES)
    prompt = ledger.draw()
    ledger.settle(prompt, "trained")
    with pytest.raises(AssertionError):
        ledger.settle(prompt, "trained")
    with pytest.raises(AssertionError):
        ledger.drop(prompt)


def test_lost_too_often_is_abandoned_by_name():
    ledger = PromptLedger(NAMES)
    for _ in range(MAX_FAILURES):
        assert ledger.lose(ledger.draw())
    assert not ledger.lose(ledger.draw())
    assert ledger.names_with("abandoned", 0) == ["a"]
    assert ledger.draw().name == "b"


def test_drops_are_counted_until_the_end_of_the_prompt():
    ledger = PromptLedger(NAMES)
    for times in range(3):
        prompt = ledger.draw()
        assert ledger.drops(prompt) == times
        ledger.drop(prompt)
    ledger.settle(ledger.draw(), "trained")
    assert ledger.drops(prompt) == 0


def test_what_is_peeked_at_is_drawn():
    ledger = PromptLedger(NAMES, epochs=2, shuffle_seed=1)
    for fresh in (False, True, True, False):
        seen = ledger.peek(fresh=fresh)
        assert ledger.peek(fresh=fresh) == seen
        assert ledger.draw(fresh=fresh) == seen
        if ledger.drawn < 3:
            ledger.drop(seen)


def test_state_survives_json():
    ledger = PromptLedger(NAMES, epochs=2, shuffle_seed=7)
    prompts = [ledger.draw() for _ in range(6)]
    ledger.settle(prompts[0], "trained")
    ledger.settle(prompts[1], "filtered")
    ledger.settle(prompts[4], "trained")
    ledger.drop(prompts[2])
    ledger.lose(prompts[5])
    state = json.loads(json.dumps(ledger.state_dict()))

    resumed = PromptLedger(NAMES, epochs=2, shuffle_seed=7)
    saved_whole = prompts[3]
    resumed.load_state_dict(state, elsewhere={saved_whole[:2]})
    assert resumed.outstanding() == ledger.outstanding()
    assert resumed.names_with("trained", 0) == [prompts[0].name]
    assert resumed.names_with("filtered", 0) == [prompts[1].name]
    sent_again = [resumed.draw() for _ in range(2)]
    assert set(sent_again) == {prompts[2], prompts[5]}
    rest = [resumed.draw() for _ in range(2)]
    assert {p.name for p in rest} | {prompts[4].name, prompts[5].name} == set(NAMES)
    assert resumed.exhausted
    resumed.settle(saved_whole, "trained")


@pytest.mark.parametrize("other", [PromptLedger(["a", "b"]), PromptLedger(NAMES, shuffle_seed=3)])
def test_state_of_other_prompts_is_refused(other):
    with pytest.raises(ValueError, match="other prompts"):
        other.load_state_dict(PromptLedger(NAMES).state_dict(), elsewhere=set())


def test_state_beyond_the_end_is_refused():
    ledger = PromptLedger(NAMES, epochs=2)
    for _ in range(5):
        ledger.settle(ledger.draw(), "trained")
    with pytest.raises(ValueError, match="beyond the 1 epochs"):
        PromptLedger(NAMES).load_state_dict(ledger.state_dict(), elsewhere=set())


def test_names_must_differ():
    with pytest.raises(ValueError, match="repeated: a"):
        PromptLedger(["a", "b", "a"])
    with pytest.raises(ValueError, match="need prompts"):
        PromptLedger([])


def test_the_account_names_every_prompt_that_was_not_trained():
    ledger = PromptLedger(NAMES, epochs=3)
    assert ledger.account() == []
    for outcome in ("trained", "filtered", "abandoned", "trained"):
        ledger.settle(ledger.draw(), outcome)
    ledger.settle(ledger.draw(), "trained")
    ledger.drop(ledger.draw())  # waits to be sent again, and is outstanding all the same
    first = {"trained": 2, "undrawn": 0, "filtered": ["b"], "abandoned": ["c"], "outstanding": []}
    second = {"trained": 1, "undrawn": 2, "filtered": [], "abandoned": [], "outstanding": ["b"]}
    assert ledger.account() == [first, second]
    resumed = PromptLedger(NAMES, epochs=3)
    resumed.load_state_dict(json.loads(json.dumps(ledger.state_dict())), elsewhere=set())
    assert resumed.account() == [first, second]
