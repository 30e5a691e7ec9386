"""What the scheduler asks of the rest of the world: an engine and a trainer.

Every call returns at once; what becomes of it is reported later by calling the scheduler's `on_*`
methods, from the same thread and never from within the call. A driver on asyncio starts a task in
each call and reports when that task is done; the simulator puts an event on its calendar. That is
why the same scheduler runs a cluster and a million simulated events a minute.

A Ray side does this:

- `Engine.generate`: one actor task per group on that engine, its n samples side by side, streaming
  back one item per sample as it ends (`on_generated`, with the spans from a `TokenVersions` beside
  the engine) and one as it is scored (`on_scored`); of several turns, which begin away, also one
  whenever it leaves the engine and comes back to it (`on_away`, `on_back`). An error of the task,
  or an actor that died, is `on_engine_failed`; start another one and report it with
  `on_engine_joined`.
- `Trainer.train`: for the first step of a batch make the experience of all its groups, in the
  order given; then run one optimizer update for each mini-batch of the step, in that order, and
  report `on_trained`.
- `Trainer.publish`: for the engines named, pause (keeping requests), read the token counts of the
  unfinished ones into the `TokenVersions`, broadcast, resume; then `on_engine_updated` for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from .groups import Batch
from .ledger import Prompt


class Request(NamedTuple):
    """One group to generate.

    Attributes:
        ticket: names the request in every event about it.
        prompt: which prompt, in which epoch.
        samples: n, responses to generate; they are numbered from 0 in the events.
        version: the version every engine has; tokens may be younger, not older.
    """

    ticket: int
    prompt: Prompt
    samples: int
    version: int


class TrainStep(NamedTuple):
    """Mini-batches `first` to `last` - 1 of a batch: what is trained without a weight sync."""

    batch: Batch
    first: int
    last: int


class Engine(Protocol):
    """One inference engine. It may be handed requests while it is paused; it queues them."""

    def generate(self, request: Request) -> None:
        """Start a group. Reported by `on_generated` and `on_scored`, once each per sample."""

    def abort(self, ticket: int) -> None:
        """Stop a group that is no longer wanted. Events about it may still come."""


class Trainer(Protocol):
    """The trainer. It is asked for one thing at a time."""

    def train(self, step: TrainStep) -> None:
        """Do `step.last - step.first` optimizer updates. Reported by `on_trained`."""

    def publish(self, version: int, engines: Sequence[str]) -> None:
        """Give the present weights to these engines. Reported by `on_engine_updated` for each.

        An engine that dies meanwhile is reported by `on_engine_failed` instead.
        """
