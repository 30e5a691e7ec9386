"""What becomes of a group that grows too old, and the working lag, on the World of conftest.py."""

import pytest

from vespo_openrlhf.scheduling.policies.bounded import MAX_DROPS


def test_waits_for_the_straggler(World):
    """Ticket 0 is of version 0: with L = 3 the batch that starts at 2 is the last it fits in."""
    world = World(lag={"max": 3}).start()
    world.complete(1)
    world.complete(2)
    world.trained()
    world.updated()
    world.complete(3)
    world.now = 10.0
    world.complete(4, 2)
    assert len(world.steps) == 1
    world.now = 25.0
    world.complete(0)
    assert {g.ticket for g in world.steps[1].batch.groups} == {0, 3}
    world.trained()
    counters = world.reports[1].counters
    assert (counters.waits, counters.waited_seconds) == (1, 15.0)


def test_drops_the_straggler_and_sends_its_prompt_again(World):
    world = World(lag={"max": 3, "on_stale": "drop"}).start()
    world.complete(1)
    world.complete(2)
    world.trained()
    world.updated()
    world.complete(3)
    world.complete(4, 2)
    assert len(world.steps) == 2
    assert world.engines["a"].aborted == [0]
    again = [r for r in world.requests() if r.prompt.name == "p0"]
    assert [r.ticket for r in again] == [0, 6]
    world.complete(0)  # too late: that dispatch is over
    world.trained()
    assert world.reports[1].counters.dropped == 1
    assert world.reports[1].counters.late_events == 4


def test_a_prompt_that_is_dropped_often_is_waited_for(World):
    world = World(lag={"max": 3, "on_stale": "drop"}).start()

    def ready_but_for_p0():
        newest = {r.prompt.name: r for r in world.requests()}
        slow = newest.pop("p0").ticket
        done = 0
        for request in sorted(newest.values()):
            if request.ticket in world.scheduler.live.tickets and request.ticket != slow:
                world.complete(request.ticket, request.version)
                done += 1
        return done

    for _ in range(30):
        steps = len(world.steps)
        ready_but_for_p0()
        if len(world.steps) == steps:
            break
        world.trained()
        world.updated()
    tickets = [r.ticket for r in world.requests() if r.prompt.name == "p0"]
    assert len(tickets) == MAX_DROPS + 1
    steps = len(world.steps)
    request = next(r for r in world.requests() if r.ticket == tickets[-1])
    world.complete(request.ticket, request.version)
    assert len(world.steps) == steps + 1
    assert tickets[-1] in {g.ticket for g in world.steps[-1].batch.groups}


def test_keeps_the_straggler_and_counts_it(World):
    world = World(lag={"max": 3, "on_stale": "keep"}).start()
    for pair in ((1, 2), (3, 4), (5, 6)):
        for ticket in pair:
            version = next(r.version for r in world.requests() if r.ticket == ticket)
            world.complete(ticket, version)
        world.trained()
        world.updated()
    world.complete(0)
    world.complete(7, 4)
    world.trained()
    assert world.reports[-1].lag.max == 6
    assert world.reports[-1].counters.over_limit_samples == 2


def test_target_ess_moves_the_working_lag(World):
    world = World(lag={"target_ess": 0.5}).start()
    assert world.scheduler.policy.working_lag == 3
    for ticket in (0, 1, 2, 3):
        world.complete(ticket)
    world.trained(ess=0.99)
    world.updated()
    world.trained(ess=0.99)
    assert world.scheduler.policy.working_lag == 5
    assert world.reports[1].scalars()["lag/ess"] == 0.99


def test_target_ess_needs_a_trainer_that_measures_it(World):
    world = World(lag={"target_ess": 0.5}).start()
    world.complete(0)
    world.complete(1)
    with pytest.raises(ValueError, match="reports no ess"):
        world.trained()
