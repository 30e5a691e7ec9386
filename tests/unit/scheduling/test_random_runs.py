"""Random runs in simulated time, faults included, held to what the scheduler promises.

The promises are checked on the simulated trainer's own account (which prompt it trained, how old
the first token was by the engine's word), not on the scheduler's.
"""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.scheduling import (
    BatchReport,
    LagOptions,
    PromptLedger,
    Scheduler,
    SchedulerConfig,
)
from vespo_openrlhf.scheduling.groups import _AWAY
from vespo_openrlhf.scheduling.lag import minimum_lag
from vespo_openrlhf.simulator.simulated_cluster import Cluster
from vespo_openrlhf.simulator.workload import ClusterConfig, Faults, Lengths

USER_POLICIES = Path(__file__).with_name("user_policies.py")
SEEDS = 1200
CHUNK = 100
HORIZON = 1e6  # simulated seconds; the runs take some thousands


def episodes(seed: int) -> dict[str, Any]:
    """Several turns, or an environment that works before the first."""
    dice = random.Random(f"episodes/{seed}")
    return {
        "turns": dice.randint(1, 4),
        "environment_seconds": dice.choice([0.0, 0.1, 5.0, 50.0]),
    }


def recount(scheduler: Scheduler) -> None:
    """What the pool counts, from the groups."""
    pool, groups = scheduler.pool, scheduler.live.tickets.values()
    assert pool.in_flight == sum(group.unfinished for group in groups)
    assert pool.away == sum(group.sample_status.count(_AWAY) for group in groups)
    loads = dict.fromkeys(pool.ready, 0)
    for group in groups:
        loads[group.engine] += group.on_engine
        assert group.deadline == group.earliest_version + group.lag
    assert {name: slot.load for name, slot in pool.ready.items()} == loads
    assert pool.idle == list(loads.values()).count(0)


class RandomRun:
    """One seed's cluster, options and prompts, under a policy (the default one has a bound)."""

    def __init__(self, seed: int, policy: str = "bounded", *, turns: bool = False) -> None:
        self.seed = seed
        dice = random.Random(seed)
        updates = dice.randint(1, 4)
        samples = dice.randint(1, 4)
        sync_every = dice.choice([None, dice.randint(1, 2 * updates)])
        minimum = minimum_lag(updates, sync_every or updates)
        self.limit = minimum + dice.choice([0, 0, 1, updates, dice.randint(0, 6 * updates)])
        self.config = SchedulerConfig(
            prompts_per_batch=updates * dice.randint(1, 4),
            samples_per_prompt=samples,
            updates_per_batch=updates,
            in_flight_per_engine=samples * dice.randint(1, 6) + dice.randint(0, samples - 1),
            lag=LagOptions(
                max=self.limit,
                on_stale=dice.choice(["wait", "wait", "drop", "drop", "keep"]),
                sync_every=sync_every,
                target_ess=dice.choice([None, None, 0.7]),
            )
            if policy == "bounded"
            else LagOptions(sync_every=sync_every, policy=policy),
            partial_rollout=dice.random() < 0.6,
            reward_timeout=20.0,
        )
        self.cluster_config = ClusterConfig(
            engines=dice.randint(1, 4),
            max_sequences=dice.randint(1, 12),
            step_seconds=0.02,
            step_seconds_per_sequence=0.002,
            lengths=Lengths(median=100, sigma=dice.choice([0.0, 0.9, 2.0]), cut=5000),
            update_seconds=dice.choice([0.0, 1.0]),
            publish_seconds=dice.choice([0.0, 0.5, 5.0]),
            reward_seconds=dice.choice([0.0, 0.0, 2.0]),
            **(episodes(seed) if turns else {}),
            ess_half_lag=dice.choice([2.0, 20.0]),
            faults=Faults(
                engine_mtbf=dice.choice([None, 200.0, 1000.0]),
                replace_seconds=dice.choice([0.0, 30.0]),
                lost_reward_share=dice.choice([0.0, 0.02, 0.3]),
                straggler_share=dice.choice([0.0, 0.3]),
                filtered_share=dice.choice([0.0, 0.0, 0.3]),
            ),
        )
        self.names = [f"prompt-{i}" for i in range(dice.randint(1, 60))]
        self.epochs = dice.randint(1, 2)
        self.reports: list[BatchReport] = []

    def start(self, go: int = 0) -> tuple[Cluster, Scheduler]:
        """A cluster and a scheduler that have not begun; `go` makes other dice."""
        cluster = Cluster(self.cluster_config, self.config.samples_per_prompt, self.seed + go)
        ledger = PromptLedger(self.names, self.epochs, shuffle_seed=self.seed % 3 or None)
        scheduler = Scheduler(
            self.config,
            ledger,
            cluster.trainer,
            clock=cluster.clock,
            accept=cluster.accept,
            on_batch=lambda report: self.report(scheduler, report),
        )
        return cluster, scheduler

    def report(self, scheduler: Scheduler, report: BatchReport) -> None:
        """After a batch."""
        recount(scheduler)
        self.reports.append(report)

    def check(self, cluster: Cluster, scheduler: Scheduler, earlier: dict | None = None) -> None:
        """Bound, exactly-once, whole groups, order."""
        trainer = cluster.trainer
        assert trainer.broken_groups == 0
        assert self.config.partial_rollout or trainer.mixed_samples == 0
        if scheduler.policy.limit is not None and self.config.lag.on_stale != "keep":
            assert trainer.max_lag <= self.limit
            assert all(report.lag.max <= self.limit for report in self.reports)
        trained = dict(earlier or {})
        for key, times in trainer.trained.items():
            trained[key] = trained.get(key, 0) + times
        assert set(trained.values()) <= {1}
        ledger = scheduler.ledger
        accounts: list[tuple[int, str]] = []
        for epoch in range(self.epochs):
            by_trainer = {self.names[row] for e, row in trained if e == epoch}
            assert by_trainer == set(ledger.names_with("trained", epoch))
            for outcome in ("trained", "filtered", "abandoned"):
                accounts += [(epoch, name) for name in ledger.names_with(outcome, epoch)]
        accounts += [(p.epoch, p.name) for p in ledger.outstanding()]
        assert len(accounts) == len(set(accounts)) == ledger.drawn
        assert ledger.drawn == len(self.names) * self.epochs
        assert not ledger.outstanding()
        assert trainer.version == scheduler.version == sum(r.updates for r in self.reports)
        assert [r.index for r in self.reports] == list(range(len(self.reports)))


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_promises_hold(first: int) -> None:
    for seed in range(first, first + CHUNK):
        run = RandomRun(seed)
        cluster, scheduler = run.start()
        cluster.run(scheduler, max_seconds=HORIZON)
        run.check(cluster, scheduler)


@pytest.mark.parametrize("first", range(0, SEEDS // 4, CHUNK))
def test_promises_hold_over_many_turns(first: int) -> None:
    """Samples leave and come back, engines die meanwhile, and syncs fall between two turns."""
    beyond = mixed = 0
    for seed in range(first, first + CHUNK):
        run = RandomRun(seed, turns=True)
        cluster, scheduler = run.start()
        cluster.run(scheduler, max_seconds=HORIZON)
        run.check(cluster, scheduler)
        assert not any(slot.groups for slot in scheduler.pool.ready.values())
        mixed += cluster.trainer.mixed_samples
        beyond += any(report.stages["environment"] > 10 for report in run.reports)
    assert mixed > 0
    assert beyond > 0


@pytest.mark.parametrize("policy", ["fifo", f"{USER_POLICIES}:Dice", f"{USER_POLICIES}:Decent"])
def test_promises_hold_under_any_policy(policy: str) -> None:
    """All but the bound: exactly once, whole groups, order, an end."""
    for seed in range(3 * CHUNK):
        run = RandomRun(seed, policy, turns=seed % 3 == 2)
        cluster, scheduler = run.start()
        cluster.run(scheduler, max_seconds=HORIZON)
        run.check(cluster, scheduler)


class KilledError(Exception):
    """The driver was killed."""


@pytest.mark.parametrize("policy", ["bounded", "fifo"])
@pytest.mark.parametrize("first", range(0, 400, CHUNK))
def test_promises_hold_across_a_restart(first: int, policy: str) -> None:
    """Killed in the middle, of episodes too; resumed from the last checkpoint: as JSON, with some
    payloads."""
    resumed = 0
    for seed in range(first, first + CHUNK):
        run = RandomRun(seed, policy, turns=seed % 4 == 3)
        cluster, scheduler = run.start()
        dice = random.Random(f"restart/{seed}")
        last = dice.randint(1, 4)
        saved: list[tuple[str, dict, dict]] = []

        def save(report, run=run, scheduler=scheduler, cluster=cluster, last=last, saved=saved):
            run.report(scheduler, report)
            payloads = {g.ticket: g.payloads for g in scheduler.live.complete_groups()}
            state = json.dumps(scheduler.state_dict())
            saved.append((state, payloads, dict(cluster.trainer.trained)))
            if len(saved) == last:
                raise KilledError

        scheduler._on_batch = save
        try:
            cluster.run(scheduler, max_seconds=HORIZON)
        except KilledError:
            resumed += 1
        else:
            continue
        state, payloads, trained = saved[-1]
        kept = {ticket: p for ticket, p in payloads.items() if dice.random() < 0.7}
        cluster, scheduler = run.start(go=1)
        scheduler.load_state_dict(json.loads(state), kept)
        cluster.run(scheduler, max_seconds=HORIZON)
        run.check(cluster, scheduler, trained)
    assert resumed > 20
