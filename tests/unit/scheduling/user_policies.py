"""Policies of a user's own, good and bad; tests name them as path/to/user_policies.py:Class."""

import random
from itertools import islice

from vespo_openrlhf.scheduling import Choice, Policy, Send, View


class Decent(Policy):
    """To the least loaded, the oldest first; what the bad ones get wrong in one place."""

    def send(self, view: View) -> Send | None:
        return Send(view.least_loaded)

    def choose(self, view: View) -> Choice:
        return Choice(list(islice(view.complete, view.batch_size)))


class Dice(Decent):
    """Whatever is allowed, at random; it waits only for what is under way."""

    def __init__(self, config):
        super().__init__(config)
        self.dice = random.Random(0)

    def send(self, view):
        if len(view.in_flight) and self.dice.random() < 0.3:
            return None
        group = self.config.samples_per_prompt
        room = [name for name, load in view.loads.items() if load + group <= view.capacity]
        return Send(
            self.dice.choice(room),
            fresh=self.dice.random() < 0.5,
            lag=self.dice.randrange(9),
            waited_for=self.dice.random() < 0.5,
        )

    def choose(self, view):
        if len(view.in_flight) and self.dice.random() < 0.3:
            return Choice()
        complete, flying = list(view.complete), list(view.in_flight)
        self.dice.shuffle(complete)
        train, rest = complete[: view.batch_size], complete[view.batch_size :]
        drop = [g for g in rest + flying if view.drops(g.prompt) < 3 and self.dice.random() < 0.1]
        return Choice(train, drop)

    def sync_now(self, view):
        return self.dice.random() < 0.5

    def updates_to_sync(self, view):
        return self.dice.randint(1, 5)


class AlwaysSyncs(Decent):
    def sync_now(self, view):
        return True

    def updates_to_sync(self, view):
        return 1


class NeverSyncs(Decent):
    def sync_now(self, view):
        return False


class NeverSends(Decent):
    def send(self, view):
        return None


class StopsSending(Decent):
    sent = 0

    def send(self, view):
        self.sent += 1
        return Send(view.least_loaded) if self.sent <= 9 else None


class NeverTrains(Decent):
    def choose(self, view):
        return Choice()


class Sticks(Decent):
    """To the first engine it saw, full or dead."""

    engine = None

    def send(self, view):
        self.engine = self.engine or view.least_loaded
        return Send(self.engine)


class TrainsInFlight(Decent):
    def choose(self, view):
        return Choice(list(islice(view.in_flight, view.batch_size)))


class TrainsTwice(Decent):
    def choose(self, view):
        return Choice([next(iter(view.complete))] * view.batch_size)


class TrainsAgain(Decent):
    first = None

    def choose(self, view):
        self.first = self.first or super().choose(view)
        return self.first


class TrainsTooFew(Decent):
    def choose(self, view):
        return Choice(super().choose(view).train[1:])


class TrainsAndDrops(Decent):
    def choose(self, view):
        train = super().choose(view).train
        return Choice(train, train)


class TrainsSomethingElse(Decent):
    def choose(self, view):
        return Choice(["p0"] * view.batch_size)


class DropsAll(Decent):
    def choose(self, view):
        return Choice(drop=list(view.complete))


class NoStep(Decent):
    def updates_to_sync(self, view):
        return 0


class NoChoose(Policy):
    def send(self, view):
        return None


class NoPolicy:
    pass
