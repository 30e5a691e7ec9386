"""Samples of several turns: away with their environment, and back for the next one."""

import pytest


def test_the_slot_of_a_sample_that_is_away_is_free(World) -> None:
    """Room for 8 sequences, groups of 2: the fifth group goes out when two are away."""
    world = World(in_flight_per_engine=4).start()
    scheduler = world.scheduler
    assert len(world.requests()) == 4
    assert (scheduler.pool.in_flight, scheduler.pool.on_engines) == (8, 8)
    scheduler.on_away(0, 0)
    assert len(world.requests()) == 4  # a group has two samples
    scheduler.on_away(0, 1)
    assert len(world.requests()) == 5
    assert (scheduler.pool.in_flight, scheduler.pool.on_engines) == (10, 8)
    scheduler.on_back(0, 0, 0)
    slot = scheduler.pool.ready[scheduler.live.tickets[0].engine]
    assert slot.load == 5  # one more than there is room for
    scheduler.on_away(1, 0)
    scheduler.on_away(1, 1)
    assert "10 sequences" not in scheduler.status()
    assert "3 with their environments" in scheduler.status()


def test_a_policy_without_a_bound_does_not_send_all_the_data(World) -> None:
    """80 samples of which all are away at once: four batches of 4, and what fits on two engines."""
    world = World(lag={"max": None, "policy": "fifo"}).start()
    told = 0
    while told < len(world.requests()):
        for sample in (0, 1):
            world.scheduler.on_away(told, sample)
        told += 1
    assert world.scheduler.pool.in_flight == 32


def test_what_is_generated_or_given_up_while_it_is_away_is_counted_once(World) -> None:
    world = World(in_flight_per_engine=4, prompts=4).start()
    scheduler = world.scheduler
    scheduler.on_away(0, 0)
    scheduler.on_generated(0, 0, [(0, 3)])  # it ends with its environment
    scheduler.on_generated(0, 1, [(0, 3)])
    assert (scheduler.pool.in_flight, scheduler.pool.on_engines) == (6, 6)
    scheduler.on_away(1, 0)
    scheduler.on_engine_failed(scheduler.live.tickets[1].engine)
    assert scheduler.pool.away == 0
    scheduler.on_away(1, 1)  # of a dispatch that is gone
    scheduler.on_back(1, 0, 0)
    assert scheduler._recorder.counters.late_events == 2


@pytest.mark.parametrize(
    "events", ["away away", "back", "away back back", "done away", "done back"]
)
def test_what_cannot_be_is_refused(World, events: str) -> None:
    world = World().start()
    scheduler = world.scheduler

    def tell(event: str) -> None:
        if event == "away":
            scheduler.on_away(0, 0)
        elif event == "back":
            scheduler.on_back(0, 0, 0)
        else:
            scheduler.on_generated(0, 0, [(0, 3)])

    *before, last = events.split()
    for event in before:
        tell(event)
    with pytest.raises(ValueError, match="has no sample 0"):
        tell(last)


def test_a_version_that_no_engine_can_have_is_refused(World) -> None:
    world = World().start()
    world.scheduler.on_away(0, 0)
    with pytest.raises(ValueError, match="versions must not fall"):
        world.scheduler.on_back(0, 0, 1)


def train_a_batch(world) -> None:
    """To version 2, with the weights on the engines."""
    world.complete(0)
    world.complete(1)
    world.trained()
    world.updated()
    assert world.scheduler.version == 2


def test_the_deadline_hangs_on_the_first_token(World) -> None:
    """Of an episode whose environment took its time to begin, and not on its dispatch."""
    world = World().start()
    scheduler, group = world.scheduler, world.scheduler.live.tickets[2]
    for sample in (0, 1):
        scheduler.on_away(2, sample)
    train_a_batch(world)
    assert (group.dispatched_version, group.deadline) == (0, 7)
    scheduler.on_back(2, 0, 2)
    assert group.deadline == 7  # of the other nothing is known
    scheduler.on_back(2, 1, 2)
    assert group.deadline == 9
    assert group in scheduler.live.flying
    scheduler.on_away(2, 0)
    scheduler.on_back(2, 0, 2)  # its second turn
    assert group.deadline == 9
    with pytest.raises(ValueError, match="versions must not fall"):
        scheduler.on_generated(2, 0, [(0, 5)])  # the deadline would have been a promise


def test_one_that_has_begun_at_its_dispatch_holds_the_deadline(World) -> None:
    world = World().start()
    scheduler, group = world.scheduler, world.scheduler.live.tickets[2]
    scheduler.on_away(2, 0)
    train_a_batch(world)
    scheduler.on_back(2, 0, 2)
    assert group.deadline == 7  # the other may have had a token of version 0
    scheduler.on_generated(2, 1, [(0, 5)])
    assert group.deadline == 7


def test_an_update_waits_for_episodes_to_end_where_responses_are_of_one_version(World) -> None:
    world = World(partial_rollout=False, in_flight_per_engine=4).start()
    scheduler = world.scheduler
    for ticket in list(scheduler.live.tickets):
        if ticket > 1:
            for sample in (0, 1):
                scheduler.on_away(ticket, sample)
    world.complete(0)
    world.complete(1)
    world.trained()
    assert scheduler.pool.on_engines < scheduler.pool.in_flight
    assert not world.publications
    for ticket in list(scheduler.live.tickets):
        for sample in (0, 1):
            scheduler.on_generated(ticket, sample, [(0, 3)])
    assert world.publications


def test_time_with_the_environment_is_told(World) -> None:
    world = World().start()
    scheduler = world.scheduler
    scheduler.on_away(0, 0)
    world.now = 3.0
    scheduler.on_back(0, 0, 0)
    world.now = 5.0
    scheduler.on_away(0, 0)
    world.now = 6.0
    train_a_batch(world)
    (report,) = world.reports
    assert report.stages["generation"] == 5.0
    assert report.stages["environment"] == 1.0  # 4 of one sample of four
    assert report.scalars()["timing/environment"] == 1.0
    assert report.scalars()["scheduler/away_samples"] == 0


def test_why_samples_are_lost_is_counted_by_reason(World) -> None:
    world = World(reward_timeout=10.0).start()
    scheduler = world.scheduler
    for ticket in (0, 1):
        scheduler.on_generated(ticket, 0, [(0, 3)], "payload")
        scheduler.on_generated(ticket, 1, [(0, 3)], "payload")
        scheduler.on_scored(ticket, 0, 1.0)
    scheduler.on_scored(0, 1, None, reason="tool_timeout")
    assert "lost/tool_timeout 1" in scheduler.status()
    world.now = 11.0
    scheduler.tick()
    world.trained()
    (report,) = world.reports
    told = {name: v for name, v in report.scalars().items() if "lost" in name or "unscored" in name}
    assert told == {
        "scheduler/unscored_samples": 2,
        "scheduler/lost/tool_timeout": 1,
        "scheduler/lost/reward_timeout": 1,
    }
