"""Dispatch, admission, batches and reports, one decision at a time, on the World of conftest.py."""

import pytest


def test_dispatch_goes_to_the_least_loaded_and_stops_at_capacity(World):
    world = World(in_flight_per_engine=5).start()
    assert [r.prompt.name for r in world.engines["a"].requests] == ["p0", "p2"]
    assert [r.prompt.name for r in world.engines["b"].requests] == ["p1", "p3"]
    # A finished sample of one group makes room for a group only when two samples are free.
    world.scheduler.on_generated(1, 0, [(0, 10)])
    assert len(world.requests()) == 5
    assert world.engines["b"].requests[-1].prompt.name == "p4"


def test_admission_stops_at_the_lag_budget(World):
    world = World(lag={"max": 3}).start()
    assert len(world.requests()) == 4  # (0 + 3 + 1) updates x 1 group


def test_a_batch_leaves_as_soon_as_it_is_whole_whatever_the_order(World):
    world = World().start()
    world.complete(5)
    assert not world.steps
    world.complete(3)
    (step,) = world.steps
    assert [g.ticket for g in step.batch.groups] == [5, 3]
    assert (step.first, step.last) == (0, 2)
    assert [g.payloads for g in step.batch.groups] == [["5/0", "5/1"], ["3/0", "3/1"]]


def test_a_refused_group_is_replaced_at_once(World):
    world = World(accept=lambda group: group.prompt.name != "p0", lag={"max": 1}).start()
    assert len(world.requests()) == 2
    world.complete(0)
    assert [r.prompt.name for r in world.requests()] == ["p0", "p1", "p2"]
    assert world.ledger.names_with("filtered", 0) == ["p0"]


def test_the_last_batch_may_be_smaller(World):
    world = World(prompts=3).start()
    for ticket in range(3):
        world.complete(ticket)
    world.trained()
    world.updated()
    assert len(world.steps[1].batch.mini_batches) == 1
    world.trained()
    assert not world.scheduler.finished
    assert world.publications[-1] == (3, ["a", "b"])  # fewer updates than from sync to sync
    world.updated()
    assert world.scheduler.finished
    assert world.reports[1].updates == 1
    assert len(world.ledger.names_with("trained", 0)) == 3


def test_spans_from_the_future_or_the_past_are_refused(World):
    world = World().start()
    with pytest.raises(ValueError, match="do not fit a request dispatched at version 0"):
        world.scheduler.on_generated(0, 0, [(1, 10)])


def test_report(World):
    world = World().start()
    world.now = 4.0
    world.scheduler.on_generated(0, 0, [(0, 30)])
    world.now = 6.0
    world.scheduler.on_scored(0, 0, 1.0)
    world.scheduler.on_generated(0, 1, [(0, 10)])
    world.scheduler.on_scored(0, 1, 1.0)
    world.now = 10.0
    world.complete(1)
    world.now = 15.0
    world.trained()
    (report,) = world.reports
    assert (report.groups, report.samples, report.tokens, report.updates) == (2, 4, 60, 2)
    assert report.seconds == 15.0
    assert report.trainer_idle == pytest.approx(10 / 15)
    assert report.engine_idle == 0.0
    assert report.stages["train"] == 5.0
    assert report.stages["queue"] == 2.0  # 4 s and 0 s
    assert report.stages["generation"] == pytest.approx((4 + 6 + 10 + 10) / 4)
    assert report.stages["reward"] == 0.5
    scalars = report.scalars()
    assert scalars["lag_tokens/0"] == pytest.approx(40 / 60)
    assert scalars["lag/max"] == 1
    assert scalars["token_version/0"] == 1.0
    assert all(isinstance(value, int | float) for value in scalars.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts_per_batch": 3}, "3 prompts per rollout batch do not split into 2 updates"),
        ({"in_flight_per_engine": 1}, "less than one group of 2"),
        ({"samples_per_prompt": 0}, "samples_per_prompt must be at least 1"),
        ({"reward_timeout": 0.0}, "reward_timeout must be above 0"),
        ({"lag": {"max": 0}}, r"1 \+ 0 = 1 > 0"),
    ],
)
def test_options_that_do_not_fit(World, changes, message):
    with pytest.raises(ValueError, match=message):
        World(**changes)
