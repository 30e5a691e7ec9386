"""Groups in a row without rewards, or refused: what is sent meanwhile, and when the run stops."""

import pytest

from vespo_openrlhf.scheduling.setbacks import FEWEST_LOST, FEWEST_REFUSED, LAST_DELAY


def lose(world, ticket: int) -> None:
    """Both samples of the group without a verdict."""
    world.complete(ticket, reward=None)


def turn(world) -> float:
    """The clock to the next timeout; what happens then. Returns the seconds that went by."""
    due = world.scheduler.next_timeout()
    waited, world.now = due - world.now, due
    world.scheduler.tick()
    return waited


def outage(World, **options):
    """A world whose first group was scored, and all others in flight lost for want of a reward."""
    world = World(prompts=200, lag={"max": 99}, **options).start()
    world.complete(0)
    for request in world.requests()[1:]:
        lose(world, request.ticket)
    return world


def test_nothing_is_sent_after_a_loss_until_it_is_time(World) -> None:
    world = outage(World)
    sent = len(world.requests())
    assert world.scheduler.next_timeout() == world.now + 1.0
    world.now += 0.5
    world.scheduler.tick()
    assert len(world.requests()) == sent
    turn(world)
    assert len(world.requests()) == sent + FEWEST_LOST // 8


def test_tries_are_further_and_further_apart_and_then_the_run_is_hopeless(World) -> None:
    world = outage(World)
    waits = []
    while world.scheduler.hopeless is None:
        before = len(world.requests())
        waits.append(turn(world))
        for request in world.requests()[before:]:
            lose(world, request.ticket)
    assert waits == [1, 2, 4, 8, 16, LAST_DELAY, LAST_DELAY, LAST_DELAY]
    assert "16 prompts in a row got no finite reward" in world.scheduler.hopeless
    (account,) = world.ledger.account()
    assert not account["abandoned"]  # the tries went round among the prompts
    assert account["undrawn"] > 150


def test_one_scored_group_ends_the_outage(World) -> None:
    world = outage(World)
    before = len(world.requests())
    turn(world)
    world.complete(world.requests()[before].ticket)
    assert world.scheduler.next_timeout() is None
    assert len(world.requests()) > before + FEWEST_LOST // 8


def test_where_no_reward_ever_came_the_run_is_hopeless_without_delay(World) -> None:
    world = World(prompts=200, lag={"max": 99}).start()
    for ticket in range(100):
        if world.scheduler.hopeless is not None:
            break
        lose(world, ticket)
    assert world.now == 0.0
    assert world.scheduler.hopeless is not None
    assert ticket == FEWEST_LOST  # not the first few again and again
    assert not world.ledger.names_with("abandoned", 0)


def test_a_few_bad_prompts_at_the_end_are_abandoned_by_name(World) -> None:
    world = World(prompts=10, lag={"max": 99}).start()
    for _ in range(100):
        for request in world.requests():
            if request.prompt.row < 7:
                world.complete(request.ticket)
            else:
                lose(world, request.ticket)
        while len(world.steps) > world.scheduler.batches:
            world.trained()
        if world.scheduler.next_timeout() is not None:
            turn(world)
    assert world.scheduler.hopeless is None
    (account,) = world.ledger.account()
    assert account["abandoned"] == ["p7", "p8", "p9"]


def test_a_try_that_dies_with_its_engine_is_made_again(World) -> None:
    world = outage(World)
    turn(world)
    held = {name for name, engine in world.engines.items() if engine.requests}
    before = len(world.requests())
    for name in held:
        world.scheduler.on_engine_failed(name)
        world.engines[name + "'"] = world.Engine()
        world.scheduler.on_engine_joined(name + "'", world.engines[name + "'"])
    world.updated()
    assert len(world.requests()) > before


def test_a_filter_that_refuses_everything_is_told_and_ends_the_run(World, caplog) -> None:
    world = World(prompts=400, lag={"max": 999}, accept=lambda group: False).start()
    ticket = 0
    while world.scheduler.hopeless is None:
        world.complete(ticket)
        ticket += 1
    assert ticket == FEWEST_REFUSED
    assert f"refused {FEWEST_REFUSED} groups in a row" in world.scheduler.hopeless
    assert "filtering has refused 2 groups in a row" in caplog.text


@pytest.mark.parametrize("good", [5, 100])
def test_what_is_accepted_now_and_then_is_not_hopeless(World, good: int) -> None:
    world = World(
        prompts=600, lag={"max": 999}, accept=lambda group: group.prompt.row % good == 0
    ).start()
    for ticket in range(500):
        world.complete(ticket)
        while len(world.steps) > len(world.publications) + world.scheduler.batches:
            world.trained()
    assert world.scheduler.hopeless is None


def test_the_status_says_what_is_waited_for(World) -> None:
    world = outage(World)
    assert "1 groups in flight (2 sequences on 2 engines" in world.scheduler.status()
    assert "resent 8, unscored_samples 16" in world.scheduler.status()
