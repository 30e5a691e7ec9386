"""The asynchronous loop: the mechanism that carries out what a policy decides.

A state machine without threads or timers of its own. Events come in through the `on_*` methods,
orders go out through the two protocols, and the time is read from the clock it is given; so it
runs the same under asyncio, under Ray and in simulated time.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .answers import Answers
from .deadlines import RewardDeadlines
from .engines import EnginePool, EngineSlot
from .groups import Batch, Group, saved_groups
from .ledger import PromptLedger
from .live import LiveGroups
from .metrics import BatchReport, Recorder
from .options import SchedulerConfig
from .outcomes import Outcomes
from .policies import make_policy
from .policy import Send, View
from .protocols import Engine, Request, Trainer
from .setbacks import Setbacks
from .sync import WeightSync
from .training import Training

logger = logging.getLogger(__name__)


class Scheduler:
    """Streams groups through engines to the trainer, as its policy decides.

    Args:
        config: the run.
        ledger: its prompts.
        trainer: see `protocols`.
        clock: seconds; any origin, never backwards.
        accept: dynamic filtering; a complete group it refuses is not trained, and its place is
            given to the next prompt at once.
        on_batch: called with the report of each trained batch, before the next one starts; the
            moment to save a checkpoint (`state_dict`).

    Raises:
        ValueError: the policy cannot keep to the options.

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
        self.ledger = ledger
        self.pool = EnginePool(config.in_flight_per_engine, config.samples_per_prompt)
        self.live = LiveGroups()
        self.policy = make_policy(config)
        self._trainer = trainer
        self._clock = clock
        self._on_batch = on_batch
        self._recorder = Recorder(clock())
        self._setbacks = Setbacks(config.prompts_per_batch)
        self._outcomes = Outcomes(
            self.live, self.pool, ledger, self._setbacks, self._recorder, accept
        )
        self._deadlines = RewardDeadlines(config.reward_timeout, self.live.tickets)
        self._training = Training(config.groups_per_update)
        self._sync = WeightSync(self.pool, partial_rollout=config.partial_rollout)
        self._view = View(
            *(self._training, self._sync, self.pool, self.live, ledger, self._setbacks),
            config.prompts_per_batch,
        )
        self._answers = Answers(config.lag.policy, self.pool, self.live, ledger)
        self._deciding = False

    @property
    def version(self) -> int:
        """Optimizer updates done."""
        return self._training.version

    @property
    def batches(self) -> int:
        """Batches trained."""
        return self._training.batches

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
            self._sync.join(name, engine)
            if self.version == 0:
                self._sync.have_weights(name)
        self._advance()

    def on_away(self, ticket: int, sample: int) -> None:
        """Sample `sample` has left its engine for its environment: its place there is free.

        The first time is before its first token: a driver that begins on the engine, and tells of
        an environment after the first turn only, would have that turn taken for younger than it is.

        Raises:
            ValueError: it is not on an engine.
        """
        group = self._find(ticket)
        if group is not None:
            group.leave(sample, self._clock())
            self.pool.leave(group)
            self._advance()

    def on_back(self, ticket: int, sample: int, version: int) -> None:
        """It asks its engine for a turn, whose tokens will be of `version` or younger. Its place is
        taken again, even where the engine is full meanwhile.

        Of a sample that was away from the start it is the first: no token of it is older.

        Raises:
            ValueError: it is not away, or no engine can have that version.
        """
        group = self._find(ticket)
        if group is None:
            return
        if group.come_back(sample, version, self.version, self._clock()):
            deadline = group.earliest_version + group.lag
            if deadline > group.deadline:
                self.live.postpone(group, deadline)
        self.pool.come_back(group)
        self._advance()

    def on_generated(
        self, ticket: int, sample: int, spans: Sequence[tuple[int, int]], payload: Any = None
    ) -> None:
        """An engine has generated sample `sample` of the request `ticket`, which may be away.

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
        away = group.generate(sample, spans, self.version, payload, now)
        self.pool.finish_sample(group, away=away)
        self._recorder.generated(now - group.dispatched_at, group.away_seconds(sample))
        self._deadlines.add(ticket, sample, now)
        self._advance()

    def on_scored(
        self,
        ticket: int,
        sample: int,
        reward: float | None,
        payload: Any = None,
        reason: str = "",
    ) -> None:
        """The verdict on a generated sample; None if it failed, as does one that is not finite.

        An unscored sample stays in its group, for the trainer to leave out. A group with fewer
        than half its samples scored is sent again.

        Args:
            payload: in place of that of `on_generated`, where only the verdict makes it whole.
            reason: why there is none, as it is counted.
        """
        group = self._find(ticket)
        if group is None:
            return
        if payload is not None and group.awaits_reward(sample):
            group.payloads[sample] = payload
        now = self._clock()
        if self._outcomes.settle(group, sample, reward, now, reason):
            self._recorder.scored(now - group.generated_at[sample])
            self._advance()
        else:
            self._recorder.counters.late_events += 1

    def on_engine_failed(self, name: str) -> None:
        """An engine is dead. Its groups are sent again, to others or to its replacement."""
        self._note_time()
        lost = self._outcomes.lose_engine(name)
        logger.warning("engine %s failed: %d groups are sent again", name, lost)
        self._settle_update(name)
        self._advance()

    def on_engine_joined(self, name: str, engine: Engine) -> None:
        """A new engine. It is given the present weights between two steps of the trainer."""
        self._note_time()
        self._sync.join(name, engine)
        self._advance()

    def on_engine_updated(self, name: str, version: int) -> None:
        """The engine samples with the weights of `version` from now on."""
        self._note_time()
        if version != self.version or not self._sync.awaits(name):
            self._recorder.counters.late_events += 1
            return
        self._sync.have_weights(name)
        self._settle_update(name)
        self._advance()

    def on_trained(self, ess: float | None = None) -> None:
        """The step that was asked for is trained.

        Args:
            ess: effective sample size of its importance weights, as a share, NaN of none; needed
                with a target.
        """
        self._note_time()
        batch = self._training.finish_step(ess)
        if batch is not None:
            self._finish_batch(batch)
        self._advance()

    def status(self) -> str:
        """What is going on, as one line for the log."""
        counters = self._recorder.counters.scalars()
        events = ", ".join(f"{name} {value:g}" for name, value in counters.items() if value)
        return (
            f"{self.live.in_flight} groups in flight ({self.pool.on_engines} sequences on "
            f"{len(self.pool.ready)} engines, {self.pool.away} with their environments, "
            f"{len(self._sync.joining)} engines without weights), "
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
            self._outcomes.settle(*overdue, None, self._clock(), "reward_timeout")
        self._setbacks.tick(self._clock())
        self._advance()

    def state_dict(self) -> dict[str, Any]:
        """A checkpoint as plain JSON: versions, prompts and complete groups, without payloads.

        Who keeps the payloads of `live.complete_groups()`, by ticket, can give them back on load.

        Raises:
            RuntimeError: in mid-batch, where it would not belong to any weights.
        """
        if self._training.batch is not None:
            raise RuntimeError("a checkpoint is taken between batches: in on_batch, say")
        return {
            "version": self.version,
            "batches": self.batches,
            "next_ticket": self.live.next_ticket,
            "ledger": self.ledger.state_dict(),
            "groups": [group.state_dict() for group in self.live.complete_groups()],
            "policy": {"name": self.config.lag.policy, "state": self.policy.state_dict()},
        }

    def load_state_dict(
        self, state: Mapping[str, Any], payloads: Mapping[int, Sequence[Any]] | None = None
    ) -> None:
        """Go on from a checkpoint, before `start`; the trainer has the weights of that moment.

        Args:
            state: of `state_dict`, of a run on the same prompts.
            payloads: ticket -> the payloads of that group's samples. A group without payloads, or
                one that the policy has no use for, is left out; its prompt is sent again.

        Raises:
            ValueError: the state does not belong to these prompts.
        """
        self._training.restore(state["version"], state["batches"])
        self._sync.visible_version = state["version"]
        self.live.next_ticket = state["next_ticket"]
        limit = self.policy.limit
        for group in saved_groups(state["groups"], payloads or {}, limit, self._clock()):
            if self.policy.readmit(self._view, group):
                self.live.add_complete(group)
        whole = {group.prompt[:2] for group in self.live.complete_groups()}
        self.ledger.load_state_dict(state["ledger"], elsewhere=whole)
        # Older checkpoints have the state of the bounded policy's working lag here.
        of_policy = state.get("policy", {"name": "bounded", "state": state.get("adaptive")})
        if of_policy["name"] == self.config.lag.policy and of_policy["state"] is not None:
            self.policy.load_state_dict(of_policy["state"])

    @property
    def _job(self) -> str:
        """What the trainer does."""
        return "publish" if self._sync.under_way else "train" if self._training.busy else "idle"

    @property
    def _all_trained(self) -> bool:
        return self.ledger.exhausted and not self._training.batch and not self.live.total

    def _note_time(self) -> None:
        self._recorder.advance(self._clock(), self.pool, self._job)

    def _find(self, ticket: int) -> Group | None:
        self._note_time()
        group = self.live.tickets.get(ticket)
        if group is None:
            self._recorder.counters.late_events += 1
        return group

    def _advance(self) -> None:
        """After every event: ask the policy whatever it can be asked now."""
        assert not self._deciding, "an engine or the trainer reported from within a call to it"
        self._deciding = True
        try:
            if self._job == "idle":
                self._start_trainer_job()
            self._dispatch()
            self._check_progress()
        finally:  # events may still come in while a policy's error ends the run
            self._deciding = False

    def _start_trainer_job(self) -> None:
        behind = self.version > self._sync.visible_version
        due = behind and (self._all_trained or self.policy.sync_now(self._view))
        if engines := self._sync.begin(due=due):
            self._trainer.publish(self.version, engines)
            return
        if self._training.batch is None and self.live.changed:
            self._form_batch()
        if self._training.batch is not None:
            updates = self._answers.updates(self.policy.updates_to_sync(self._view))
            self._trainer.train(self._training.next_step(updates))

    def _settle_update(self, engine: str) -> None:
        self._sync.settle(engine, self.version)
        self.live.changed |= not self._sync.under_way  # the policy may choose otherwise now

    def _form_batch(self) -> None:
        """A batch to train now, if there is one."""
        self.live.changed = False
        size = self._view.batch_size
        more = self.live.in_flight or not self.ledger.exhausted
        if not size or (more and size < self.config.prompts_per_batch):
            return  # only the last batch of the data may be short
        train, drop = self._answers.groups(self.policy.choose(self._view), size)
        for group in train:
            self.live.remove_complete(group)
        for group in drop:
            self._outcomes.drop(group)
        self._recorder.waiting(not train and self.live.complete >= size, self._clock())
        if train:
            self._training.begin(train, self._clock())

    def _finish_batch(self, batch: Batch) -> None:
        for group in batch.groups:
            self.ledger.settle(group.prompt, "trained")
        self.live.changed = True
        ess = self._training.ess()
        report = self._recorder.report(
            batch,
            self.pool,
            self.live,
            started=self._training.started,
            working_lag=self.policy.working_lag,
            limit=self.policy.limit,
            ess=None if ess is None or math.isnan(ess) else ess,
        )
        self.policy.trained(self._view, ess)
        if self._on_batch:
            self._on_batch(report)

    def _dispatch(self) -> None:
        while (
            not self._sync.draining
            and not self.ledger.exhausted
            and self.pool.least_loaded() is not None
            and self._setbacks.may_send(self.live.tickets)
            and (send := self.policy.send(self._view)) is not None
        ):
            self._send(send, self._answers.slot(send))

    def _send(self, send: Send, slot: EngineSlot) -> None:
        # In an outage prompts take turns, so that none is given up for it.
        prompt = self.ledger.draw(fresh=send.fresh or self._setbacks.outage)
        ticket, samples = self.live.next_ticket, self.config.samples_per_prompt
        version, now = self._sync.visible_version, self._clock()
        group = Group(ticket, prompt, samples, slot.name, version, send.lag, send.waited_for, now)
        self.live.add_in_flight(group)
        self.pool.dispatch(slot, group)
        slot.engine.generate(Request(ticket, prompt, samples, version))

    def _check_progress(self) -> None:
        """A policy that neither sends nor trains, with nothing under way, would stop the run for
        ever without a word."""
        if self.live.tickets or self._job != "idle" or not self.pool.ready or self.finished:
            return
        if self.next_timeout() is None:
            raise self._answers.error(
                f"stands still: nothing is in flight, {self.live.complete} groups are complete, "
                "and it neither sends a prompt nor trains a batch"
            )
