"""Dead engines, rewards that never come, and a resume, on the World of conftest.py."""

import json
import math

import pytest

from vespo_openrlhf.scheduling.ledger import MAX_FAILURES


def test_a_dead_engine_loses_nothing(World):
    world = World().start()
    lost = [r.prompt.name for r in world.engines["a"].requests]
    world.complete(0)  # on "a", and whole: it survives
    world.scheduler.on_engine_failed("a")
    world.complete(1)
    assert len(world.steps) == 1
    replacement = world.engines["c"] = World.Engine()
    world.scheduler.on_engine_joined("c", replacement)
    assert not world.publications  # the trainer is busy
    world.trained()
    assert world.publications == [(2, ["b", "c"])]
    assert not replacement.requests
    world.updated()
    again = {r.prompt.name for e in "bc" for r in world.engines[e].requests}
    assert set(lost) - {"p0"} <= again
    assert min(r.version for r in replacement.requests) == 2


def test_a_prompt_that_kills_every_engine_is_abandoned_by_name(World):
    world = World(prompts=1).start()
    for turn in range(MAX_FAILURES + 1):
        holder = next(n for n, e in world.engines.items() if e.requests)
        world.scheduler.on_engine_failed(holder)
        del world.engines[holder]
        name = f"new-{turn}"
        world.engines[name] = World.Engine()
        world.scheduler.on_engine_joined(name, world.engines[name])
        world.updated()
    assert world.ledger.names_with("abandoned", 0) == ["p0"]
    assert world.scheduler.finished


def test_a_reward_that_never_returns_costs_one_sample(World):
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


def test_a_group_without_rewards_is_sent_again(World):
    world = World().start()
    world.complete(0, reward=math.nan)
    world.complete(1)
    world.complete(2)
    world.trained()
    assert world.reports[0].counters.unscored_samples == 2
    assert world.reports[0].counters.resent == 1
    world.updated()
    assert [request.prompt.name for request in world.requests()[9:]] == ["p0", "p9"]


def test_resume(World):
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


def test_resume_without_payloads_sends_the_prompts_again(World):
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
