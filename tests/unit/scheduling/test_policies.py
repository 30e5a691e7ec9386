"""Policies beside the default one: what holds for any, what a bad one is told, and one new file."""

import json
from pathlib import Path

import pytest

from vespo_openrlhf.scheduling import (
    LagOptions,
    PolicyError,
    SchedulerConfig,
    make_policy,
    policies,
)
from vespo_openrlhf.scheduling.policies.fifo import BUFFERED_BATCHES
from vespo_openrlhf.simulator import command

HERE = Path(__file__).parent


def own(name: str) -> str:
    return f"{HERE / 'user_policies.py'}:{name}"


def world_of(World, policy, **changes):
    return World(lag={"max": None, "policy": policy}, **changes)


def account(world):
    """Every prompt that was drawn is in one place."""
    (account,) = world.ledger.account()
    named = [name for names in account.values() if isinstance(names, list) for name in names]
    assert len(named) == len(set(named))
    assert account["trained"] + len(named) == world.ledger.drawn
    return account


def play(world, *, kill=None, steps=300):
    """Whatever is asked is done at once: every group completed, trained, published."""
    done, published = set(), 0
    for _ in range(steps):
        if world.scheduler.finished:
            return
        for name, engine in world.engines.items():
            for request in engine.requests:
                if request.ticket not in done and name != kill:
                    done.add(request.ticket)
                    if request.ticket in world.scheduler.live.tickets:
                        world.complete(request.ticket, request.version)
        if kill is not None:
            world.scheduler.on_engine_failed(kill)
            kill = None
        if world.scheduler._training.busy:
            world.trained()
        if len(world.publications) > published:
            published = len(world.publications)
            world.updated()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NeverSends", "stands still: nothing is in flight, 0 groups are complete"),
        ("StopsSending", "stands still: nothing is in flight, 1 groups are complete"),
        ("NeverTrains", "stands still: nothing is in flight, 40 groups are complete"),
        ("Sticks", "sends a prompt to engine 'a', which is full: 8 of 8 sequences"),
        ("SendsAWord", "answers `send` with 'a': a Send, its lag a whole number, or None"),
        ("SendsHalfALag", "answers `send` with Send.*lag=0.5"),
        ("ChoosesNone", "answers `choose` with None: a Choice, without groups to wait"),
        ("TrainsInFlight", "trains a group that is not complete"),
        ("TrainsTwice", "chooses a group twice"),
        ("TrainsAgain", "trains a group that is not complete"),
        ("TrainsTooFew", "chooses 1 groups for a batch of 2"),
        ("TrainsAndDrops", "chooses a group twice"),
        ("TrainsSomethingElse", "trains a group that is not complete: p0"),
        ("DropsAll", "drops prompt p0 again, after 20 times"),
        ("NoStep", "asks for 0 updates before the next sync"),
    ],
)
def test_a_bad_policy_is_named_and_loses_nothing(World, name, message) -> None:
    world = world_of(World, own(name))
    with pytest.raises(PolicyError, match=rf"lag\.policy .*{name} {message}"):
        play(world.start())
    if world.ledger.drawn:
        account(world)


def test_a_dead_engine_cannot_be_sent_to(World) -> None:
    world = world_of(World, own("Sticks"), in_flight_per_engine=1000, prompts=100).start()
    with pytest.raises(PolicyError, match="engine 'a', which is not there or has no weights"):
        world.scheduler.on_engine_failed("a")
    with pytest.raises(PolicyError, match="engine 'a'"):  # what comes in before the run has ended
        world.scheduler.tick()
    account(world)


@pytest.mark.parametrize("name", ["Decent", "Dice", "AlwaysSyncs", "NeverSyncs"])
@pytest.mark.parametrize("partial_rollout", [True, False])
def test_what_is_allowed_ends_with_every_prompt_trained(World, name, partial_rollout) -> None:
    world = world_of(World, own(name), partial_rollout=partial_rollout).start()
    play(world)
    assert world.scheduler.finished
    assert account(world)["trained"] == 40
    assert [r.index for r in world.reports] == list(range(20))
    # The engines are left with the weights the run ends with, whatever the policy says.
    assert world.publications[-1][0] == world.scheduler.version == 40
    if name == "NeverSyncs":
        assert len(world.publications) == 1


def test_fifo_trains_at_any_lag_and_reports_it(World) -> None:
    world = world_of(World, "fifo").start()
    for first in range(1, 9, 2):
        for ticket in (first, first + 1):
            version = next(r.version for r in world.requests() if r.ticket == ticket)
            world.complete(ticket, version)
        world.trained()
        world.updated()
    world.complete(0)
    world.complete(9, next(r.version for r in world.requests() if r.ticket == 9))
    world.trained()
    report = world.reports[-1]
    assert report.lag.max == 9
    assert "lag/working" not in report.scalars()
    assert report.scalars()["lag/max"] == 9
    assert report.counters.over_limit_samples == 0


def test_fifo_keeps_the_buffer_finite(World) -> None:
    world = world_of(World, "fifo", prompts=400).start()
    for ticket in range(100):
        if ticket not in world.scheduler.live.tickets:
            break
        world.complete(ticket)  # the trainer is at its first batch all the while
    # What was in flight when the buffer was full comes on top of it.
    assert world.scheduler.live.in_flight == 0
    assert BUFFERED_BATCHES * 2 <= world.scheduler.live.complete <= BUFFERED_BATCHES * 2 + 8
    world.trained()
    assert not world.requests()[ticket:]
    world.updated()
    assert world.scheduler.live.complete


def test_names_are_checked_before_anything_starts() -> None:
    def made(**lag):
        return make_policy(SchedulerConfig(2, 2, 2, 8, LagOptions(**lag)))

    assert type(made()).__name__ == "Bounded"
    for lag, message in (
        (
            {"policy": "fido"},
            r"unknown lag\.policy 'fido' \(did you mean fifo\?\)\. Known: bounded, f",
        ),
        ({"policy": own("NoPolicy")}, "is no subclass of scheduling.Policy"),
        ({"policy": own("NoChoose")}, "does not define choose"),
        ({"policy": own("NoInit")}, r"its __init__ calls no super\(\)\.__init__\(config\)"),
        ({"policy": own("Missing")}, "Missing"),
        ({"policy": "no.module:Mine"}, r"no\.module"),
        ({"policy": "fifo", "max": 7}, r"lag\.max 7 is not used by lag\.policy fifo: leave it out"),
        ({"policy": "fifo", "target_ess": 0.5}, r"lag\.target_ess 0\.5 is not used by"),
        ({"policy": own("Decent"), "on_stale": "drop"}, r"lag\.on_stale drop is not used by"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**lag)


NEW_POLICY = '''
"""The youngest complete groups first."""

from vespo_openrlhf.scheduling import Choice, Policy, Send


class Newest(Policy):
    """Fresh data above all."""

    def send(self, view):
        return Send(view.least_loaded) if len(view.complete) < 1000 else None

    def choose(self, view):
        newest = sorted(view.complete, key=lambda group: -group.oldest_version)
        return Choice(newest[: view.batch_size])
'''
NODE = ["--preset", "one-node", "--engines", "2", "--prompts", "12", "--max-sequences", "64"]


def simulated(capsys, *arguments):
    assert command.main([*NODE, *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_new_policy_is_one_file_of_a_users_own(tmp_path, capsys, World) -> None:
    file = tmp_path / "newest.py"
    file.write_text(NEW_POLICY)
    figures = simulated(capsys, "--policy", f"{file}:Newest")
    assert (figures["lost"], figures["duplicated"]) == (0, 0)
    oldest_first = simulated(capsys, "--policy", "fifo")
    assert figures["max_lag"] > oldest_first["max_lag"]
    world = world_of(World, f"{file}:Newest").start()
    play(world)
    assert account(world)["trained"] == 40


def test_a_new_policy_of_ours_is_one_file_in_the_folder(tmp_path, capsys, monkeypatch) -> None:
    (tmp_path / "newest.py").write_text(NEW_POLICY)
    monkeypatch.setattr(policies, "__path__", [*policies.__path__, str(tmp_path)])
    assert policies.policy_names() == ["bounded", "fifo", "newest"]
    assert simulated(capsys, "--policy", "newest")["lost"] == 0


def test_the_simulator_says_what_a_policy_does_wrong(capsys) -> None:
    for arguments, message in (
        (["--policy", own("NeverSends")], "NeverSends stands still"),
        (["--policy", "fifo", "--lag-batches", "4"], "lag.max 16 is not used by lag.policy fifo"),
        (["--policy", "fifo", "--on-stale", "keep"], "lag.on_stale keep is not used by"),
        (["--policy", "nowhere.py:Mine"], "nowhere.py"),
    ):
        assert command.main([*NODE, *arguments]) == 2
        assert message in capsys.readouterr().err


def test_a_checkpoint_of_another_policy_loses_no_prompt(World) -> None:
    world = world_of(World, "fifo").start()
    saved = []
    world.scheduler._on_batch = lambda report: saved.append(
        (world.scheduler.state_dict(), world.scheduler.live.complete_groups())
    )
    for ticket in range(4):
        world.complete(ticket)
    world.trained()
    state, groups = saved[0]
    assert (state["policy"], len(groups)) == ({"name": "fifo", "state": None}, 2)
    resumed = World()
    resumed.scheduler.load_state_dict(state, {group.ticket: group.payloads for group in groups})
    resumed.start()
    resumed.updated()
    play(resumed)
    assert resumed.scheduler.finished
    assert account(resumed)["trained"] == 40


def test_a_checkpoint_of_before_there_were_policies(World) -> None:
    world = World(lag={"target_ess": 0.5})
    adaptive = {"lag": 6, "settled_at": 2, "log_ess": []}
    state = world.scheduler.state_dict()
    del state["policy"]
    world.scheduler.load_state_dict(state | {"adaptive": adaptive})
    assert world.scheduler.policy.working_lag == 6
    assert world.scheduler.state_dict()["policy"] == {"name": "bounded", "state": adaptive}
