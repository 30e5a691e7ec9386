"""The scheduler's surroundings for a test: engines and a trainer that only write down."""

import itertools

import pytest

from vespo_openrlhf.scheduling import (
    Group,
    LagOptions,
    Prompt,
    PromptLedger,
    Scheduler,
    SchedulerConfig,
)


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

    Engine = Engine

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


@pytest.fixture(name="World", scope="session")
def world_class():
    """The class; a test makes its own. A fixture, because nothing is imported as `tests`."""
    return World


tickets = itertools.count()


@pytest.fixture(name="group", scope="session")
def make_group():
    """group(version, ...) makes one of two samples."""

    def group(version, *, lag=8, waited_for=True, oldest=None):
        """Dispatched at `version`; complete if `oldest`, its version, is given."""
        ticket = next(tickets)
        prompt = Prompt(0, ticket, str(ticket))
        made = Group(ticket, prompt, 2, "engine", version, lag, waited_for, 0.0)
        if oldest is not None:
            for sample in range(2):
                made.generate(sample, [(oldest, 10)], oldest, f"payload {sample}", 1.0)
                made.settle(sample, 1.0)
        return made

    return group
