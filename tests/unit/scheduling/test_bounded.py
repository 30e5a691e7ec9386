"""Which groups the bounded policy lets train, and which it gives up, one choice at a time."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from vespo_openrlhf.scheduling import LagOptions, Prompt, PromptLedger, SchedulerConfig, make_policy
from vespo_openrlhf.scheduling.engines import EnginePool
from vespo_openrlhf.scheduling.groups import Group, saved_groups
from vespo_openrlhf.scheduling.live import LiveGroups
from vespo_openrlhf.scheduling.policy import View
from vespo_openrlhf.scheduling.setbacks import Setbacks
from vespo_openrlhf.scheduling.sync import WeightSync
from vespo_openrlhf.scheduling.training import Training

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


class Desk(LiveGroups):
    """Groups on a desk, and the policy that looks at them."""

    def __init__(self, policy, config):
        super().__init__()
        self.policy = policy
        self.training = Training(config.groups_per_update)
        pool = EnginePool(config.in_flight_per_engine, config.samples_per_prompt)
        self.view = View(
            self.training,
            WeightSync(pool, partial_rollout=True),
            pool,
            self,
            PromptLedger(["p"]),
            Setbacks(config.prompts_per_batch),
            config.prompts_per_batch,
        )

    def take(self, position, size):
        """(batch, dropped) from `position` on; taken out."""
        self.training.restore(position, 0)
        assert self.view.batch_size == size
        choice = self.policy.choose(self.view)
        for made in itertools.chain(choice.train, choice.drop):
            if made in self.done:
                self.done.remove(made)
            else:
                self.remove_in_flight(made)
        return list(choice.train), list(choice.drop)


def desk(groups_per_update=1, updates=2, limit=8, on_stale="wait"):
    config = SchedulerConfig(
        groups_per_update * updates, 2, updates, 2, LagOptions(limit, on_stale)
    )
    return Desk(make_policy(config), config)


def test_oldest_first():
    live = desk()
    old, middle, young = (group(v, oldest=v) for v in (0, 1, 2))
    for made in (young, old, middle):
        live.add_complete(made)
    assert live.take(4, 2) == ([old, middle], [])
    assert live.complete_groups() == [young]


def test_waits_for_a_group_that_would_become_too_old():
    live = desk()
    straggler = group(0)
    live.add_in_flight(straggler)
    for _ in range(2):
        live.add_complete(group(6, oldest=6))
    # Its deadline is 8: a batch of two updates may start at 6, and at 7 it must be in.
    assert live.take(7, 2) == ([], [])
    assert len(live.take(6, 2)[0]) == 2


def test_waits_when_too_many_would_be_due_at_once():
    """Three groups with the deadline 8 do not fit into the two updates from 7 to 8."""
    live = desk()
    for _ in range(3):
        live.add_in_flight(group(0))
    for _ in range(2):
        live.add_complete(group(5, oldest=5))
    assert live.take(5, 2) == ([], [])
    assert len(live.take(4, 2)[0]) == 2


def test_overdue_groups_are_given_back():
    live = desk()
    late, fine, other = (group(v, waited_for=False, oldest=v) for v in (0, 2, 2))
    for made in (late, fine, other):
        live.add_complete(made)
    assert live.take(9, 2) == ([fine, other], [late])
    assert live.total == 0


def test_too_few_left_after_the_overdue():
    live = desk()
    late, fine = (group(v, waited_for=False, oldest=v) for v in (0, 2))
    live.add_complete(late)
    live.add_complete(fine)
    assert live.take(9, 2) == ([], [late])
    assert live.complete_groups() == [fine]


def test_what_is_waited_for_has_the_right_of_way():
    live = desk()
    often_dropped = group(2, oldest=2)
    others = [group(1, waited_for=False, oldest=1) for _ in range(3)]
    for made in (*others, often_dropped):
        live.add_complete(made)
    # At 9 only the first mini-batch meets the deadline 9; the second meets 10.
    chosen, overdue = live.take(9, 2)
    assert chosen == [others[0], often_dropped]
    assert overdue == others[1:]
    live.add_complete(group(1, waited_for=False, oldest=1))
    live.add_complete(last := group(2, oldest=2))
    live.add_complete(tight := group(1, oldest=1))
    assert live.take(9, 2)[0] == [tight, last]


def test_nothing_is_too_old_where_nothing_is_enforced():
    live = desk(on_stale="keep")
    live.add_in_flight(group(0))
    old, young = (group(v, oldest=v) for v in (0, 30))
    live.add_complete(young)
    live.add_complete(old)
    assert live.take(50, 2) == ([old, young], [])


def test_expired_groups_are_taken_out():
    live = desk()
    flying, done = group(0, waited_for=False), group(1, waited_for=False, oldest=1)
    live.add_in_flight(flying)
    live.add_complete(done)
    fine, other, young = (group(2, oldest=2) for _ in range(3))
    for made in (fine, other, young):
        live.add_complete(made)
    # A batch that trains at 8 and 9 leaves no use for a deadline before 10.
    assert live.take(8, 2) == ([fine, other], [flying, done])
    assert live.complete_groups() == [young]


def test_restore_leaves_out_what_does_not_fit():
    made = [group(v, oldest=v) for v in (0, 0, 1, 4)]
    saved = [g.state_dict() for g in made]
    payloads = {g.ticket: g.payloads for g in made[:3]}
    live = desk(limit=4)
    live.training.restore(4, 0)
    for found in saved_groups(saved, payloads, live.policy.limit, now=7.0):
        if live.policy.readmit(live.view, found):
            live.add_complete(found)
    # The last has no payloads; the bound is 4 now, so only one of version 0 is in time at 4.
    assert [g.ticket for g in live.complete_groups()] == [made[0].ticket, made[2].ticket]
    assert live.complete_groups()[0].payloads == ["payload 0", "payload 1"]
    assert live.complete_groups()[0].deadline == 4


@settings(max_examples=300, deadline=None)
@given(
    complete=st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=7),
    flying=st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=4),
    updates=st.integers(1, 3),
    per_update=st.integers(1, 2),
)
def test_take_against_brute_force(complete, flying, updates, per_update):
    """A batch is given whenever there is one that keeps every promise, and it keeps them.

    Promises: each of its groups meets its deadline in its mini-batch, and afterwards everything
    that is waited for can still meet its own. Position 8, deadlines 8 to 20.
    """
    position, size = 8, updates * per_update
    live = desk(per_update, updates)
    done = [group(v, waited_for=w, oldest=v) for v, w in complete]
    away = [group(v, waited_for=w) for v, w in flying]
    for made in done:
        live.add_complete(made)
    for made in away:
        live.add_in_flight(made)

    def fits(deadlines, start):
        ordered = sorted(deadlines)
        return all(start + i // per_update <= d for i, d in enumerate(ordered))

    # Only states that admission and the batches before can lead to.
    if not fits([g.deadline for g in done + away if g.waited_for], position):
        return

    def keeps_promises(batch):
        rest = [g for g in done + away if g.waited_for and g not in batch]
        return fits([g.deadline for g in batch], position) and fits(
            [g.deadline for g in rest], position + updates
        )

    possible = any(keeps_promises(batch) for batch in itertools.combinations(done, size))
    if len(done) < size:
        return
    batch, overdue = live.take(position, size)
    assert bool(batch) == possible
    assert not any(g.waited_for for g in overdue)
    assert not any(g in overdue for g in batch)
    if batch:
        assert keeps_promises(batch)
        assert [g.deadline for g in batch] == sorted(g.deadline for g in batch)
