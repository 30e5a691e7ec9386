"""The scheduler's decisions, one at a time, on engines and a trainer that only write down."""

import json
import math

import pytest

from vespo_openrlhf.scheduling import LagOptions, PromptLedger, Scheduler, SchedulerConfig
from vespo_openrlhf.scheduling.prompts import MAX_DROPS, MAX_FAILURES


class Engine:
    def __init__(self):
        self.requests = []
        self.aborted = []

    def generate(self, request):
        self.requests.append(request)

    def abort(self, ticket):
        self.aborted.append(ticket)


class World:
    """Two engines, a trainer, a clock to turn, and 2 prompts x 2 samples per batch of 2 updates.

    Room for four groups per engine, and L = 7: at version 0 four batches may be admitted.
    """

    def __init__(self, *, prompts=40, accept=None, lag=None, **changes):
        self.now = 0.0
        self.reports = []
        self.steps = []
        self.publications = []
        self.engines = {"a": Engine(), "b": Engine()}
        options = {
            "prompts_per_batch": 2,
            "samples_per_prompt": 2,
            "updates_per_batch": 2,
            "in_flight_per_engine": 8,
            "lag": LagOptions(**{"max": 7, **(lag or {})}),
            "partial_rollout": True,
        }
        self.config = SchedulerConfig(**{**options, **changes})
        self.ledger = PromptLedger([f"p{i}" for i in range(prompts)])
        self.scheduler = Scheduler(
            self.config,
            self.ledger,
            self,
            clock=lambda: self.now,
            accept=accept,
            on_batch=self.reports.append,
        )

    def start(self):
        self.scheduler.start(self.engines)
        return self

    # Trainer
    def train(self, step):
        self.steps.append(step)

    def publish(self, version, engines):
        self.publications.append((version, list(engines)))

    # What happens next
    def requests(self):
        return sorted(r for engine in self.engines.values() for r in engine.requests)

    def complete(self, ticket, version=0, reward=1.0):
        for sample in range(2):
            self.scheduler.on_generated(ticket, sample, [(version, 10)], f"{ticket}/{sample}")
            self.scheduler.on_scored(ticket, sample, reward)

    def trained(self, ess=None):
        self.scheduler.on_trained(ess)

    def updated(self):
        version, engines = self.publications[-1]
        for engine in engines:
            self.scheduler.on_engine_updated(engine, version)


def test_dispatch_goes_to_the_least_loaded_and_stops_at_capacity():
    world = World(in_flight_per_engine=5).start()
    assert [r.prompt.name for r in world.engines["a"].requests] == ["p0", "p2"]
    assert [r.prompt.name for r in world.engines["b"].requests] == ["p1", "p3"]
    # A finished sample of one group makes room for a group only when two samples are free.
    world.scheduler.on_generated(1, 0, [(0, 10)])
    assert len(world.requests()) == 5
    assert world.engines["b"].requests[-1].prompt.name == "p4"


def test_admission_stops_at_the_lag_budget():
    world = World(lag={"max": 3}).start()
    assert len(world.requests()) == 4  # (0 + 3 + 1) updates x 1 group


def test_a_batch_leaves_as_soon_as_it_is_whole_whatever_the_order():
    world = World().start()
    world.complete(5)
    assert not world.steps
    world.complete(3)
    (step,) = world.steps
    assert [g.ticket for g in step.batch.groups] == [5, 3]
    assert (step.first, step.last) == (0, 2)
    assert [g.payloads for g in step.batch.groups] == [["5/0", "5/1"], ["3/0", "3/1"]]


def test_a_version_is_visible_when_every_engine_has_it():
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


def test_a_dead_engine_does_not_hold_a_version_back():
    world = World(lag={"max": 5}).start()
    world.complete(0)
    world.complete(1)
    world.trained()
    world.scheduler.on_engine_updated("a", 2)
    world.scheduler.on_engine_failed("b")
    new = [r for r in world.engines["a"].requests if r.version == 2]
    assert new


def test_without_partial_rollout_engines_finish_before_they_are_updated():
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


def test_nothing_is_dispatched_while_the_engines_run_empty():
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


def test_sync_every_k_updates_cuts_a_batch():
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


def test_sync_every_k_updates_spans_batches():
    world = World(lag={"sync_every": 4}).start()
    for ticket in range(4):
        world.complete(ticket)
    world.trained()
    assert not world.publications
    world.trained()
    assert world.publications == [(4, ["a", "b"])]


def test_synchronous_mode_is_lag_0_to_n_minus_1():
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


def test_waits_for_the_straggler():
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


def test_drops_the_straggler_and_sends_its_prompt_again():
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


def test_a_prompt_that_is_dropped_often_is_waited_for():
    world = World(lag={"max": 3, "on_stale": "drop"}).start()

    def ready_but_for_p0():
        newest = {r.prompt.name: r for r in world.requests()}
        slow = newest.pop("p0").ticket
        done = 0
        for request in sorted(newest.values()):
            if request.ticket in world.scheduler._groups and request.ticket != slow:
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


def test_keeps_the_straggler_and_counts_it():
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


def test_a_refused_group_is_replaced_at_once():
    world = World(accept=lambda group: group.prompt.name != "p0", lag={"max": 1}).start()
    assert len(world.requests()) == 2
    world.complete(0)
    assert [r.prompt.name for r in world.requests()] == ["p0", "p1", "p2"]
    assert world.ledger.names_with("filtered", 0) == ["p0"]


def test_a_dead_engine_loses_nothing():
    world = World().start()
    lost = [r.prompt.name for r in world.engines["a"].requests]
    world.complete(0)  # on "a", and whole: it survives
    world.scheduler.on_engine_failed("a")
    world.complete(1)
    assert len(world.steps) == 1
    replacement = world.engines["c"] = Engine()
    world.scheduler.on_engine_joined("c", replacement)
    assert not world.publications  # the trainer is busy
    world.trained()
    assert world.publications == [(2, ["b", "c"])]
    assert not replacement.requests
    world.updated()
    again = {r.prompt.name for e in "bc" for r in world.engines[e].requests}
    assert set(lost) - {"p0"} <= again
    assert min(r.version for r in replacement.requests) == 2


def test_a_joining_engine_gets_its_weights_alone_when_no_sync_is_due():
    world = World(lag={"sync_every": 4}).start()
    world.complete(0)
    world.complete(1)
    world.scheduler.on_engine_joined("c", Engine())
    world.trained()
    assert world.publications == [(2, ["c"])]
    world.updated()
    assert world.scheduler.pool.ready.keys() == {"a", "b", "c"}


def test_a_prompt_that_kills_every_engine_is_abandoned_by_name():
    world = World(prompts=1).start()
    for turn in range(MAX_FAILURES + 1):
        holder = next(n for n, e in world.engines.items() if e.requests)
        world.scheduler.on_engine_failed(holder)
        del world.engines[holder]
        name = f"new-{turn}"
        world.engines[name] = Engine()
        world.scheduler.on_engine_joined(name, world.engines[name])
        world.updated()
    assert world.ledger.names_with("abandoned", 0) == ["p0"]
    assert world.scheduler.finished


def test_a_reward_that_never_returns_costs_one_sample():
    world = World(reward_timeout=30.0).start()
    world.complete(1)
    world.scheduler.on_generated(0, 0, [(0, 10)], "kept")
    world.scheduler.on_generated(0, 1, [(0, 10)], "without a verdict")
    world.now = 1.0
    world.scheduler.on_scored(0, 0, 0.5)
    assert world.scheduler.next_timeout() == 30.0
    world.now = 30.0
    world.scheduler.tick()
    group = next(g for g in world.steps[0].batch.groups if g.ticket == 0)
    assert group.rewards == [0.5, None]
    assert group.payloads == ["kept", "without a verdict"]
    world.scheduler.on_scored(0, 1, 1.0)  # after all
    assert group.rewards == [0.5, None]
    assert world.scheduler.next_timeout() is None


def test_a_group_without_rewards_is_sent_again():
    world = World().start()
    world.complete(0, reward=math.nan)
    assert world.requests()[-1].prompt.name == "p0"
    world.complete(1)
    world.complete(2)
    world.trained()
    assert world.reports[0].counters.unscored_samples == 2
    assert world.reports[0].counters.resent == 1


def test_max_updates_ends_the_run_with_nothing_left_over():
    world = World(max_updates=4).start()
    assert len(world.requests()) == 4
    for ticket in range(4):
        world.complete(ticket)
    world.trained()
    world.updated()
    assert not world.scheduler.finished
    world.trained()
    assert world.publications[-1] == (4, ["a", "b"])
    world.updated()
    assert world.scheduler.finished
    assert len(world.requests()) == 4


def test_the_last_batch_may_be_smaller():
    world = World(prompts=3).start()
    for ticket in range(3):
        world.complete(ticket)
    world.trained()
    world.updated()
    assert len(world.steps[1].batch.mini_batches) == 1
    world.trained()
    assert world.scheduler.finished
    assert world.reports[1].updates == 1
    assert len(world.ledger.names_with("trained", 0)) == 3


def test_spans_from_the_future_or_the_past_are_refused():
    world = World().start()
    with pytest.raises(ValueError, match="do not fit a request dispatched at version 0"):
        world.scheduler.on_generated(0, 0, [(1, 10)])


def test_report():
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


def test_token_versions_of_a_partial_rollout():
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


def test_resume():
    world = World(lag={"max": 5}).start()
    saved = []
    world.scheduler._on_batch = lambda report: saved.append(
        (json.dumps(world.scheduler.state_dict()), world.scheduler.live.complete_groups())
    )
    world.complete(0)
    world.complete(1)
    world.complete(2)
    with pytest.raises(RuntimeError, match="between batches"):
        world.scheduler.state_dict()
    world.trained()
    state, groups = saved[0]
    assert [g.ticket for g in groups] == [2]

    resumed = World(lag={"max": 5})
    resumed.scheduler.load_state_dict(json.loads(state), {2: groups[0].payloads})
    resumed.start()
    # No engine is used before it has the weights of version 2.
    assert resumed.publications == [(2, ["a", "b"])]
    assert not resumed.requests()
    resumed.updated()
    sent = resumed.requests()
    assert {r.version for r in sent} == {2}
    assert min(r.ticket for r in sent) > max(r.ticket for r in world.requests()) - 1
    assert [r.prompt.name for r in sent][:3] == ["p3", "p4", "p5"]
    assert "p2" not in {r.prompt.name for r in sent}
    resumed.complete(sent[0].ticket, 2)
    assert [g.prompt.name for g in resumed.steps[0].batch.groups] == ["p2", "p3"]
    assert resumed.steps[0].batch.index == 1


def test_resume_without_payloads_sends_the_prompts_again():
    world = World().start()
    saved = []
    world.scheduler._on_batch = lambda report: saved.append(world.scheduler.state_dict())
    for ticket in (0, 1, 2):
        world.complete(ticket)
    world.trained()
    resumed = World()
    resumed.scheduler.load_state_dict(saved[0])
    resumed.start()
    resumed.updated()
    assert resumed.requests()[0].prompt.name == "p2"


def test_target_ess_moves_the_working_lag():
    world = World(lag={"target_ess": 0.5}).start()
    assert world.scheduler.working_lag == 3
    for ticket in (0, 1, 2, 3):
        world.complete(ticket)
    world.trained(ess=0.99)
    world.updated()
    world.trained(ess=0.99)
    assert world.scheduler.working_lag == 5
    assert world.reports[1].scalars()["lag/ess"] == 0.99


def test_target_ess_needs_a_trainer_that_measures_it():
    world = World(lag={"target_ess": 0.5}).start()
    world.complete(0)
    world.complete(1)
    with pytest.raises(ValueError, match="reports no ess"):
        world.trained()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts_per_batch": 3}, "3 prompts per rollout batch do not split into 2 updates"),
        ({"in_flight_per_engine": 1}, "less than one group of 2"),
        ({"samples_per_prompt": 0}, "samples_per_prompt must be at least 1"),
        ({"reward_timeout": 0.0}, "above 0 seconds"),
        ({"max_updates": 3}, "not a whole number of rollout batches"),
        ({"lag": {"max": 0}}, r"1 \+ 0 = 1 > 0"),
    ],
)
def test_options_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        World(**changes)
