"""The asynchronous loop: who generates what, what trains next, when the engines get weights.

A state machine without threads or timers of its own. Events come in through the `on_*` methods,
decisions go out through the two protocols, and the time is read from the clock it is given; so it
runs the same under asyncio, under Ray and in simulated time.
"""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .adaptive import controller_for
from .config import SchedulerConfig
from .deadlines import RewardDeadlines
from .engines import EnginePool, EngineSlot
from .groups import Batch, Group, LiveGroups
from .metrics import BatchReport, Recorder
from .prompts import Prompt, PromptLedger
from .protocols import Engine, Request, Trainer, TrainStep
from .setbacks import Setbacks
from .sync import WeightSync

logger = logging.getLogger(__name__)


class Scheduler:
    """Streams groups through engines to the trainer under a lag budget.

    Args:
        config: the run.
        ledger: its prompts.
        trainer: see `protocols`.
        clock: seconds; any origin, never backwards.
        accept: dynamic filtering; a complete group it refuses is not trained, and its place is
            given to the next prompt at once.
        on_batch: called with the report of each trained batch, before the next one starts; the
            moment to save a checkpoint (`state_dict`).

    Use: `load_state_dict` to resume, `start`, then events until `finished`, and `tick` at
    `next_timeout`; where it is `hopeless`, to go on would only burn the rest of the data.
    """

    def __init__(
        self,
        config: SchedulerConfig,
        ledger: PromptLedger,
        trainer: Trainer,
        *,
        clock: Callable[[], float],
        accept: Callable[[Group], bool] | None = None,
        on_batch: Callable[[BatchReport], None] | None = None,
    ) -> None:
        self.config = config
        self.budget = config.budget()
        self.ledger = ledger
        self.version = 0  # optimizer updates done
        self.position = 0  # version at which the next batch will start
        self.batches = 0
        self.abandoned = 0  # prompts given up in this process
        self.pool = EnginePool(config.in_flight_per_engine, config.samples_per_prompt)
        self.live = LiveGroups(self.budget, enforced=config.lag.on_stale != "keep")
        self._trainer = trainer
        self._clock = clock
        self._accept = accept
        self._on_batch = on_batch
        self._adaptive = controller_for(config.lag, self.budget)
        self._recorder = Recorder(clock())
        self._groups: dict[int, Group] = {}  # in flight, by ticket
        self._next_ticket = 0
        self._setbacks = Setbacks(config.prompts_per_batch)
        self._deadlines = RewardDeadlines(config.reward_timeout, self._groups)
        self._job = "idle"  # what the trainer does: "idle", "train", "publish"
        self._sync = WeightSync(self.budget.sync_every, partial_rollout=config.partial_rollout)
        self._step: TrainStep | None = None  # of the batch in training, the step under way or done
        self._batch_started = 0.0
        self._ess: list[float] = []
        self._recheck = True  # something has changed since no batch could be formed
        self._deciding = False

    @property
    def working_lag(self) -> int:
        """The lag that admission goes by now, in updates."""
        return self._adaptive.lag if self._adaptive else self.budget.limit

    @property
    def finished(self) -> bool:
        """Whether every prompt of the run is trained or accounted for."""
        return self._job == "idle" and self._all_trained

    @property
    def hopeless(self) -> str | None:
        """Why the run should stop, if it should: a batch's worth of prompts in a row got no
        reward, or filtering refuses all there is."""
        return self._setbacks.hopeless

    def start(self, engines: Mapping[str, Engine]) -> None:
        """Begin. The engines have the weights of version 0; after a resume they are given theirs.

        Every engine that ever joins needs a name of its own, a replacement too.
        """
        for name, engine in engines.items():
            self.pool.join(name, engine)
            if self.version == 0:
                self.pool.make_ready(name)
        self._advance()

    def on_generated(
        self, ticket: int, sample: int, spans: Sequence[tuple[int, int]], payload: Any = None
    ) -> None:
        """An engine has generated sample `sample` of the request `ticket`.

        Args:
            spans: (version, tokens) of its tokens, in order; see `TokenVersions`.
            payload: kept with the sample for the trainer.

        Raises:
            ValueError: spans that cannot be, or a sample that was reported before.
        """
        group = self._find(ticket)
        if group is None:
            return
        now = self._clock()
        group.generate(sample, spans, self.version, payload, now)
        self.pool.finish_sample(group)
        self._recorder.generated(now - group.dispatched_at)
        self._deadlines.add(ticket, sample, now)
        self._advance()

    def on_scored(
        self, ticket: int, sample: int, reward: float | None, payload: Any = None
    ) -> None:
        """The verdict on a generated sample; None if it failed, as does one that is not finite.

        An unscored sample stays in its group, for the trainer to leave out. A group with fewer
        than half its samples scored is sent again.

        Args:
            payload: in place of that of `on_generated`, where only the verdict makes it whole.
        """
        group = self._find(ticket)
        if group is None:
            return
        if payload is not None and group.awaits_reward(sample):
            group.payloads[sample] = payload
        if self._settle_sample(group, sample, reward):
            self._recorder.scored(self._clock() - group.generated_at[sample])
            self._advance()
        else:
            self._recorder.counters.late_events += 1

    def on_engine_failed(self, name: str) -> None:
        """An engine is dead. Its groups are sent again, to others or to its replacement."""
        self._note_time()
        lost = self.pool.fail(name)
        for group in lost:
            del self._groups[group.ticket]
            self.live.remove_in_flight(group)
            self._lose(group)
        logger.warning("engine %s failed: %d groups are sent again", name, len(lost))
        self._settle_update(name)
        self._advance()

    def on_engine_joined(self, name: str, engine: Engine) -> None:
        """A new engine. It is given the present weights between two steps of the trainer."""
        self._note_time()
        self.pool.join(name, engine)
        self._advance()

    def on_engine_updated(self, name: str, version: int) -> None:
        """The engine samples with the weights of `version` from now on."""
        self._note_time()
        if version != self.version or not self._sync.awaits(name):
            self._recorder.counters.late_events += 1
            return
        self.pool.make_ready(name)
        self._settle_update(name)
        self._advance()

    def on_trained(self, ess: float | None = None) -> None:
        """The step that was asked for is trained.

        Args:
            ess: effective sample size of its importance weights, as a share, NaN of none; needed
                with a target.
        """
        step = self._step
        assert self._job == "train" and step, "trained without having been asked"  # noqa: PT018
        self._note_time()
        self._job = "idle"
        self.version += step.last - step.first
        if ess is not None:
            self._ess.append(ess)
        if step.last == len(step.batch.mini_batches):
            self._finish_batch(step.batch)
        self._advance()

    def status(self) -> str:
        """What is going on, as one line for the log."""
        counters = dataclasses.asdict(self._recorder.counters)
        events = ", ".join(f"{name} {value:g}" for name, value in counters.items() if value)
        return (
            f"{self.live.in_flight} groups in flight ({self.pool.in_flight} sequences on "
            f"{len(self.pool.ready)} engines, {len(self.pool.joining)} engines without weights), "
            f"{self.live.complete} of {self.config.prompts_per_batch} complete, the trainer: "
            f"{self._job}" + (f"; since the last batch: {events}" if events else "")
        )

    def next_timeout(self) -> float | None:
        """When `tick` is due, on the scheduler's clock; None while nothing is awaited."""
        dues = self._deadlines.next(), self._setbacks.next()
        return min((due for due in dues if due is not None), default=None)

    def tick(self) -> None:
        """Give up the rewards that are overdue, and try again what was held back."""
        self._note_time()
        while overdue := self._deadlines.pop_overdue(self._clock()):
            self._settle_sample(*overdue, None)
        self._setbacks.tick(self._clock())
        self._advance()

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint as plain JSON: versions, prompts and complete groups, without payloads.

        Who keeps the payloads of `live.complete_groups()`, by ticket, can give them back on load.

        Raises:
            RuntimeError: in mid-batch, where it would not belong to any weights.
        """
        if self._step is not None:
            raise RuntimeError("a checkpoint is taken between batches: in on_batch, say")
        return {
            "version": self.version,
            "batches": self.batches,
            "next_ticket": self._next_ticket,
            "ledger": self.ledger.state_dict(),
            "groups": [group.state_dict() for group in self.live.complete_groups()],
            "adaptive": self._adaptive.state_dict() if self._adaptive else None,
        }

    def load_state_dict(
        self, state: Mapping[str, Any], payloads: Mapping[int, Sequence[Any]] | None = None
    ) -> None:
        """Go on from a checkpoint, before `start`; the trainer has the weights of that moment.

        Args:
            state: of `state_dict`, of a run on the same prompts.
            payloads: ticket -> the payloads of that group's samples. A group without payloads, or
                too old for the present bound, is not used; its prompt is sent again.

        Raises:
            ValueError: the state does not belong to these prompts.
        """
        self.version = self._sync.visible_version = self.position = state["version"]
        self.batches = state["batches"]
        self._next_ticket = state["next_ticket"]
        self.live.restore(state["groups"], payloads or {}, self.position, self._clock())
        whole = {group.prompt[:2] for group in self.live.complete_groups()}
        self.ledger.load_state_dict(state["ledger"], elsewhere=whole)
        if self._adaptive and state["adaptive"]:
            self._adaptive.load_state_dict(state["adaptive"])

    @property
    def _all_trained(self) -> bool:
        no_more = self.ledger.exhausted or self.position == self.config.max_updates
        return no_more and not self._step and not self.live.total

    def _note_time(self) -> None:
        self._recorder.advance(self._clock(), self.pool, self._job)

    def _find(self, ticket: int) -> Group | None:
        self._note_time()
        group = self._groups.get(ticket)
        if group is None:
            self._recorder.counters.late_events += 1
        return group

    def _advance(self) -> None:
        """After every event: whatever can be decided now."""
        assert not self._deciding, "an engine or the trainer reported from within a call to it"
        self._deciding = True
        if self._job == "idle":
            self._start_trainer_job()
        self._dispatch()
        self._deciding = False

    def _start_trainer_job(self) -> None:
        engines = self._sync.engines_to_update(self.version, self.pool, last=self._all_trained)
        if engines:
            self._job = "publish"
            self._sync.begin(engines, self.pool)
            self._trainer.publish(self.version, engines)
        elif self._step is not None:
            self._train(self._step.batch, self._step.last)
        elif self._recheck:
            batch = self._form_batch()
            self._recheck = batch is not None
            if batch:
                self._train(batch, 0)

    def _settle_update(self, engine: str) -> None:
        if self._sync.settle(engine, self.version):
            self._job = "idle"

    def _train(self, batch: Batch, first: int) -> None:
        """Train up to the next weight sync, or to the end of the batch."""
        self._job = "train"
        last = min(first + self._sync.updates_to_next(self.version), len(batch.mini_batches))
        self._step = TrainStep(batch, first, last)
        self._trainer.train(self._step)

    def _form_batch(self) -> Batch | None:
        size = min(self.config.prompts_per_batch, self.live.complete)
        more = self.live.in_flight or not self.ledger.exhausted
        if not size or (more and size < self.config.prompts_per_batch):
            return None  # only the last batch of the data may be short
        groups, overdue = self.live.take(self.position, size)
        self._drop(overdue)
        self._recorder.waiting(not groups and self.live.complete >= size, self._clock())
        if not groups:
            return None
        batch = Batch.of(self.batches, self.position, groups, self.budget.groups_per_update)
        assert self.config.lag.on_stale == "keep" or batch.max_lag <= self.budget.limit
        self._batch_started = self._clock()
        self.position += len(batch.mini_batches)
        in_flight, complete = self.live.expired(self.position)
        for group in in_flight:
            del self._groups[group.ticket]
            self.pool.remove(group).engine.abort(group.ticket)
        self._drop([*in_flight, *complete])
        return batch

    def _finish_batch(self, batch: Batch) -> None:
        for group in batch.groups:
            self.ledger.settle(group.prompt, "trained")
        self._step = None
        self.batches += 1
        self._recheck = True
        reported, self._ess = self._ess, []
        known = [ess for ess in reported if not math.isnan(ess)]
        ess = math.fsum(known) / len(known) if known else None
        report = self._recorder.report(
            batch,
            self.pool,
            self.live,
            started=self._batch_started,
            working_lag=self.working_lag,
            limit=self.budget.limit,
            ess=ess,
        )
        if self._adaptive:
            if not reported:
                raise ValueError("lag.target_ess is set, and the trainer reports no ess")
            if ess is not None:
                self._adaptive.observe(self.version, ess)
        if self._on_batch:
            self._on_batch(report)

    def _dispatch(self) -> None:
        limit = self.config.max_updates
        while not self._sync.draining and not self.ledger.exhausted:
            room = self.budget.room(self._sync.visible_version + self.working_lag, self.position)
            if limit is not None:
                room = min(room, self.budget.room(limit - 1, self.position))
            slot = self.pool.least_loaded()
            if slot is None or self.live.total >= room:
                return
            if not self._setbacks.may_send(self._groups):
                return
            self._send(self.ledger.draw(fresh=self._setbacks.outage), slot)

    def _send(self, prompt: Prompt, slot: EngineSlot) -> None:
        stale = self.config.lag.on_stale
        waited_for = stale == "wait" or (stale == "drop" and self.ledger.dropped_often(prompt))
        ticket = self._next_ticket
        self._next_ticket += 1
        samples = self.config.samples_per_prompt
        version, lag, now = self._sync.visible_version, self.working_lag, self._clock()
        group = Group(ticket, prompt, samples, slot.name, version, lag, waited_for, now)
        self._groups[ticket] = group
        self.live.add_in_flight(group)
        self.pool.add(slot, group)
        slot.engine.generate(Request(ticket, prompt, samples, version))

    def _settle_sample(self, group: Group, sample: int, reward: float | None) -> bool:
        """The verdict, or the end of waiting for it; False if there has been one before."""
        if reward is not None and not math.isfinite(reward):
            reward = None
        if not group.settle(sample, reward):
            return False
        self._recorder.counters.unscored_samples += reward is None
        if not group.unscored:
            self._complete(group)
        return True

    def _complete(self, group: Group) -> None:
        del self._groups[group.ticket]
        self.pool.remove(group)
        self.live.remove_in_flight(group)
        self._recheck = True
        group.completed_at = self._clock()
        if 2 * group.scored < len(group.rewards):
            self._setbacks.lose(group, self._next_ticket, group.completed_at)
            self._lose(group)
            return
        self._setbacks.score()
        accepted = self._accept is None or self._accept(group)
        if self._setbacks.refuse(not accepted):
            logger.warning("filtering has refused %d groups in a row", self._setbacks.refused)
        if accepted:
            self.live.add_complete(group)
        else:
            self._recorder.counters.filtered += 1
            self.ledger.settle(group.prompt, "filtered")

    def _drop(self, groups: Iterable[Group]) -> None:
        for group in groups:
            self._recorder.counters.dropped += 1
            self.ledger.drop(group.prompt)

    def _lose(self, group: Group) -> None:
        self._recheck = True
        if self.ledger.lose(group.prompt):
            self._recorder.counters.resent += 1
        else:
            self.abandoned += 1
            self._recorder.counters.abandoned += 1
