"""When the engines get weights, and which version is visible, on the World of conftest.py."""


def test_a_version_is_visible_when_every_engine_has_it(World):
    world = World(lag={"max": 5}).start()
    assert len(world.requests()) == 6
    world.complete(0)
    world.complete(1)
    world.trained()
    assert world.publications == [(2, ["a", "b"])]
    sent = len(world.requests())
    world.scheduler.on_engine_updated("a", 2)
    assert len(world.requests()) == sent
    world.scheduler.on_engine_updated("b", 2)
    assert [r.version for r in world.requests()[sent:]] == [2, 2]


def test_a_dead_engine_does_not_hold_a_version_back(World):
    world = World(lag={"max": 5}).start()
    world.complete(0)
    world.complete(1)
    world.trained()
    world.scheduler.on_engine_updated("a", 2)
    world.scheduler.on_engine_failed("b")
    new = [r for r in world.engines["a"].requests if r.version == 2]
    assert new


def test_without_partial_rollout_engines_finish_before_they_are_updated(World):
    world = World(partial_rollout=False, lag={"max": 5}).start()
    world.complete(0)
    world.complete(1)
    sent = len(world.requests())
    world.trained()
    assert not world.publications
    world.complete(2)  # the next batch trains meanwhile
    world.complete(3)
    assert len(world.steps) == 2
    world.trained()
    world.complete(4)
    assert not world.publications
    world.complete(5)
    assert world.publications == [(4, ["a", "b"])]
    assert len(world.requests()) == sent
    world.updated()
    assert {r.version for r in world.requests()[sent:]} == {4}


def test_nothing_is_dispatched_while_the_engines_run_empty(World):
    world = World(partial_rollout=False, in_flight_per_engine=4).start()
    world.complete(0)
    world.complete(1)
    assert len(world.requests()) == 6  # each place is given to the next at once
    world.trained()
    world.complete(2)
    assert len(world.requests()) == 6
    for ticket in (3, 4, 5):
        world.complete(ticket)
    world.trained()
    world.updated()
    assert len(world.requests()) > 6


def test_sync_every_k_updates_cuts_a_batch(World):
    world = World(lag={"sync_every": 1}).start()
    world.complete(0)
    world.complete(1)
    assert [(s.first, s.last) for s in world.steps] == [(0, 1)]
    world.trained()
    assert world.publications == [(1, ["a", "b"])]
    world.updated()
    assert [(s.first, s.last) for s in world.steps] == [(0, 1), (1, 2)]
    assert not world.reports
    world.trained()
    assert world.reports[0].version == 0


def test_sync_every_k_updates_spans_batches(World):
    world = World(lag={"sync_every": 4}).start()
    for ticket in range(4):
        world.complete(ticket)
    world.trained()
    assert not world.publications
    world.trained()
    assert world.publications == [(4, ["a", "b"])]


def test_synchronous_mode_is_lag_0_to_n_minus_1(World):
    world = World(partial_rollout=False, lag={"max": 1}).start()
    for version in (0, 2, 4):
        first, second = world.requests()[-2:]
        assert first.version == second.version == version
        world.complete(first.ticket, version)
        world.complete(second.ticket, version)
        world.trained()
        world.updated()
        assert world.reports[-1].lag.oldest == {0: 2, 1: 2}
        assert world.reports[-1].lag.tokens == {0: 20, 1: 20}


def test_a_joining_engine_gets_its_weights_alone_when_no_sync_is_due(World):
    world = World(lag={"sync_every": 4}).start()
    world.complete(0)
    world.complete(1)
    world.scheduler.on_engine_joined("c", World.Engine())
    world.trained()
    assert world.publications == [(2, ["c"])]
    world.updated()
    assert world.scheduler.pool.ready.keys() == {"a", "b", "c"}


def test_token_versions_of_a_partial_rollout(World):
    world = World(lag={"max": 5}).start()
    world.complete(1)
    world.complete(2)
    world.trained()
    world.updated()
    for sample in range(2):
        world.scheduler.on_generated(0, sample, [(0, 6), (2, 4)])
        world.scheduler.on_scored(0, sample, 1.0)
    world.complete(3)
    world.trained()
    lag = world.reports[1].lag
    # Groups 0 and 3 are of the same age; the first to be whole trains at 2, the other at 3.
    assert lag.tokens == {0: 8, 2: 12, 3: 20}
    assert lag.oldest == {2: 2, 3: 2}
    assert lag.versions == {0: 32, 2: 8}
