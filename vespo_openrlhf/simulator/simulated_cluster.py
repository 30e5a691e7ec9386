"""A cluster in simulated time: engines and a trainer behind the two protocols, on one calendar.

An engine decodes one token of each of its active sequences per step, and a step takes
base + per_sequence * active seconds. All active sequences advance alike, so one that enters after
V steps ends at step V + its length: a heap of end marks per engine, and one event per finished
sequence, however many tokens it has. New weights cost an engine what it takes to compute the KV
cache of its unfinished responses again, unless it keeps it.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from vespo_openrlhf.scheduling.groups import Group
from vespo_openrlhf.scheduling.lag import Spans
from vespo_openrlhf.scheduling.protocols import Request, TrainStep
from vespo_openrlhf.scheduling.scheduler import Scheduler

from .workload import ClusterConfig


class Calendar:
    """Simulated time: the clock, in seconds, and what happens next."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = itertools.count()

    def at(self, time: float, action: Callable[..., None], *arguments: Any) -> None:
        """Plan an action."""
        heapq.heappush(self._heap, (time, next(self._order), action, arguments))

    def upcoming(self) -> float:
        """When the next thing happens; infinity if nothing does."""
        return self._heap[0][0] if self._heap else math.inf

    def step(self) -> bool:
        """Do what comes next; False if nothing does."""
        if not self._heap:
            return False
        self.now, _, action, arguments = heapq.heappop(self._heap)
        self.events += 1
        action(*arguments)
        return True


class SimulatedEngine:
    """Processor sharing in virtual time: `_steps` decode steps done, as a real number."""

    def __init__(self, cluster: Cluster, name: str, version: int, slowdown: float) -> None:
        self.name = name
        self.version = version
        self.alive = True
        self._cluster = cluster
        self._slowdown = slowdown
        config = cluster.config
        self._has_environment = config.turns > 1 or config.environment_seconds > 0
        self._active: list[tuple[float, int, int, int]] = []  # (end, ticket, sample, length)
        self._waiting: deque[tuple[int, int]] = deque()
        self._turns: dict[tuple[int, int], list[Spans]] = {}  # of the unfinished, by its sample
        self._steps = 0.0
        self._since = cluster.calendar.now
        self._paused = False
        self._pauses = 0
        self._plan = 0  # the newest planned wake-up; older ones are void
        self._dirty = False
        # From step marks[i] on, the weights are of versions[i].
        self._marks = [0.0]
        self._versions = [version]

    def generate(self, request: Request) -> None:
        """See Engine."""
        self._catch_up()
        for sample in range(request.samples):
            self._turns[request.ticket, sample] = []
            if self._has_environment:
                calendar = self._cluster.calendar
                calendar.at(calendar.now, self._leave, request.ticket, sample)
            else:
                self._waiting.append((request.ticket, sample))
        self._admit()

    def abort(self, ticket: int) -> None:
        """See Engine."""
        self._catch_up()
        self._active = [entry for entry in self._active if entry[1] != ticket]
        heapq.heapify(self._active)
        self._waiting = deque(entry for entry in self._waiting if entry[0] != ticket)
        self._turns = {of: turns for of, turns in self._turns.items() if of[0] != ticket}
        self._admit()

    def pause(self) -> None:
        """Stand still, with all requests kept."""
        self._catch_up()
        self._paused = True
        self._pauses += 1
        self._touch()

    def resume(self, version: int) -> None:
        """Go on, with these weights, once what is to be computed again is."""
        self._catch_up()
        self.version = version
        self._marks.append(self._steps)
        self._versions.append(version)
        self._pauses += 1
        calendar = self._cluster.calendar
        if seconds := self._recompute_seconds():
            calendar.at(calendar.now + seconds, self._go_on, self._pauses)
        else:
            self._go_on(self._pauses)

    def _go_on(self, pauses: int) -> None:
        if pauses == self._pauses:  # and has not been paused again meanwhile
            self._catch_up()
            self._paused = False
            self._touch()

    def _recompute_seconds(self) -> float:
        speed = self._cluster.config.prefill_tokens_per_second
        if speed is None or self._cluster.scheduler.config.lag.kv == "keep":
            return 0.0
        sampled = sum(length - (end - self._steps) for end, _, _, length in self._active)
        return sampled / speed * self._slowdown

    def replan(self) -> None:
        """Plan the next end of a sequence, after everything that happened at this moment."""
        self._dirty = False
        self._plan += 1
        if self._active and self.alive and not self._paused:
            calendar = self._cluster.calendar
            due = calendar.now + max(0.0, self._active[0][0] - self._steps) * self._step_time()
            calendar.at(due, self._wake, self._plan)

    def _wake(self, plan: int) -> None:
        if plan != self._plan or not self.alive:
            return
        # The event is the end of the first sequence, whatever rounding says.
        self._catch_up()
        self._steps = max(self._steps, self._active[0][0])
        ended = []
        while self._active and self._active[0][0] <= self._steps:
            ended.append(heapq.heappop(self._active))
        self._admit()
        for end, ticket, sample, length in ended:
            self._end_turn(ticket, sample, self._spans(end - length, length))

    def _end_turn(self, ticket: int, sample: int, spans: Spans) -> None:
        turns = self._turns.get((ticket, sample))
        if turns is None:
            return  # what another turn's end has led to has aborted it
        turns.append(spans)
        if len(turns) < self._cluster.config.turns:
            self._leave(ticket, sample)
        else:
            del self._turns[ticket, sample]
            if self._has_environment:  # with which it ends, as in a run
                self._cluster.scheduler.on_away(ticket, sample)
            self._cluster.sample_done(self, ticket, sample, _joined(turns))

    def _leave(self, ticket: int, sample: int) -> None:
        if self.alive and (ticket, sample) in self._turns:
            calendar = self._cluster.calendar
            due = calendar.now + self._cluster.draw_environment()
            calendar.at(due, self._come_back, ticket, sample)
            self._cluster.scheduler.on_away(ticket, sample)

    def _come_back(self, ticket: int, sample: int) -> None:
        if self.alive and (ticket, sample) in self._turns:
            self._catch_up()
            self._waiting.append((ticket, sample))
            self._admit()
            self._cluster.scheduler.on_back(ticket, sample, self.version)

    def _admit(self) -> None:
        while self._waiting and len(self._active) < self._cluster.config.max_sequences:
            ticket, sample = self._waiting.popleft()
            length = self._cluster.draw_length()
            heapq.heappush(self._active, (self._steps + length, ticket, sample, length))
        self._touch()

    def _touch(self) -> None:
        if not self._dirty:
            self._dirty = True
            self._cluster.dirty.append(self)

    def _catch_up(self) -> None:
        now = self._cluster.calendar.now
        if not self._paused and self._active and now > self._since:
            self._steps += (now - self._since) / self._step_time()
        self._since = now

    def _step_time(self) -> float:
        return self._cluster.config.step_time(len(self._active)) * self._slowdown

    def _spans(self, start: float, length: int) -> Spans:
        """Which version sampled how many of `length` tokens from step `start` on."""
        marks, versions = self._marks, self._versions
        first = bisect_right(marks, start + 1e-6) - 1
        spans: list[tuple[int, int]] = []
        done = 0
        for i in range(first, len(marks)):
            last = i + 1 == len(marks)
            until = length if last else min(length, math.floor(marks[i + 1] - start + 1e-6))
            if until > done:
                spans.append((versions[i], until - done))
                done = until
        return tuple(spans)


def _joined(turns: Sequence[Spans]) -> Spans:
    """The spans of all turns as those of one response, each version once."""
    tokens: dict[int, int] = {}
    for version, count in itertools.chain.from_iterable(turns):
        tokens[version] = tokens.get(version, 0) + count
    return tuple(tokens.items())


class SimulatedTrainer:
    """Trains tokens at a steady speed. It keeps its own account, apart from the scheduler's.

    Attributes:
        version: updates done.
        trained: (epoch, row) of a prompt -> how often it was trained.
        max_lag: the greatest lag it has seen, from the payloads: the engine's word on the
            version of each sample's first token.
        broken_groups: groups that were not whole.
        mixed_samples: samples with tokens of several versions.
        held_tokens: the most there have been in finished responses, from their last token until
            the batch after their own begins.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.version = 0
        self.trained: dict[tuple[int, int], int] = {}
        self.max_lag = 0
        self.broken_groups = 0
        self.mixed_samples = 0
        self.held_tokens = 0
        self._batch: list[Group] = []

    def train(self, step: TrainStep) -> None:
        """See Trainer."""
        if step.first == 0:
            self._hold(list(step.batch.groups))
        tokens = 0
        total_lag = 0
        mini_batches = step.batch.mini_batches[step.first : step.last]
        for version, mini_batch in enumerate(mini_batches, start=self.version):
            for group in mini_batch:
                key = (group.prompt.epoch, group.prompt.row)
                self.trained[key] = self.trained.get(key, 0) + 1
                if None in group.payloads or len(group.payloads) != self._cluster.group_size:
                    self.broken_groups += 1
                self.max_lag = max(self.max_lag, version - min(group.payloads))
                for spans in group.spans:
                    self.mixed_samples += len(spans) > 1
                    for sampled, count in spans:
                        tokens += count
                        total_lag += (version - sampled) * count
        config = self._cluster.config
        seconds = tokens / config.trainer_speed + config.update_seconds * len(mini_batches)
        ess = None
        if config.ess_half_lag is not None:
            ess = 0.5 ** (total_lag / tokens / config.ess_half_lag)
        calendar = self._cluster.calendar
        calendar.at(calendar.now + seconds, self._trained, len(mini_batches), ess)

    def _hold(self, batch: list[Group]) -> None:
        live = self._cluster.scheduler.live
        held = itertools.chain(self._batch, batch, live.tickets.values(), live.done)
        tokens = sum(n for group in held for spans in group.spans for _, n in spans)
        self.held_tokens = max(self.held_tokens, tokens)
        self._batch = batch

    def publish(self, version: int, engines: Sequence[str]) -> None:
        """See Trainer."""
        assert version == self.version, "asked to publish weights it does not have"
        for name in engines:
            self._cluster.engines[name].pause()
        calendar = self._cluster.calendar
        for done, name in enumerate(engines, start=1):
            seconds = self._cluster.config.publish_seconds * done / len(engines)
            calendar.at(calendar.now + seconds, self._published, name)

    def _trained(self, updates: int, ess: float | None) -> None:
        self.version += updates
        self._cluster.scheduler.on_trained(ess)

    def _published(self, name: str) -> None:
        engine = self._cluster.engines.get(name)
        if engine is not None:
            engine.resume(self.version)
            self._cluster.scheduler.on_engine_updated(name, self.version)


class Cluster:
    """The simulated world around one scheduler.

    Args:
        config: of the cluster.
        group_size: samples per prompt.
        seed: of lengths and faults.

    Use: build a Scheduler on its `trainer` and `clock`, then `run` it.
    """

    def __init__(self, config: ClusterConfig, group_size: int, seed: int = 0) -> None:
        self.config = config
        self.group_size = group_size
        self.calendar = Calendar()
        self.trainer = SimulatedTrainer(self)
        self.engines: dict[str, SimulatedEngine] = {}
        self.dirty: list[SimulatedEngine] = []
        self.scheduler: Scheduler
        self._lengths = random.Random(f"lengths/{seed}")
        self._faults = random.Random(f"faults/{seed}")
        self._environments = random.Random(f"environments/{seed}")
        self._born = itertools.count()

    def clock(self) -> float:
        """Simulated seconds."""
        return self.calendar.now

    def accept(self, group: object) -> bool:
        """Dynamic filtering, by the dice of `Faults.filtered_share`."""
        return self._faults.random() >= self.config.faults.filtered_share

    def draw_length(self) -> int:
        """Tokens of the next response."""
        return self.config.lengths.draw(self._lengths)

    def draw_environment(self) -> float:
        """Seconds of an environment before its next turn."""
        mean = self.config.environment_seconds
        return self._environments.expovariate(1 / mean) if mean else 0.0

    def run(self, scheduler: Scheduler, *, max_seconds: float = math.inf) -> None:
        """Run to the end.

        Raises:
            RuntimeError: nothing happens any more, or `max_seconds` of simulated time are over,
                and the scheduler has not finished.
        """
        self.scheduler = scheduler
        fresh = scheduler.version == 0
        self.trainer.version = scheduler.version
        scheduler.start(
            {e.name: e for e in (self._start_engine(fresh) for _ in range(self.config.engines))}
        )
        self._settle()
        while not scheduler.finished:
            if not self.calendar.step() or self.calendar.now > max_seconds:
                raise RuntimeError(
                    f"stuck after {self.calendar.now:.0f} s at version {scheduler.version}, with "
                    f"{scheduler.live.total} live groups"
                )
            self._settle()

    def sample_done(self, engine: SimulatedEngine, ticket: int, sample: int, spans: Spans) -> None:
        """An engine has generated a sample; its payload is the version of its first token."""
        self.scheduler.on_generated(ticket, sample, spans, spans[0][0])
        if self._faults.random() < self.config.faults.lost_reward_share:
            return
        if self.config.reward_seconds:
            due = self.calendar.now + self.config.reward_seconds
            self.calendar.at(due, self._score, engine, ticket, sample)
        else:
            self.scheduler.on_scored(ticket, sample, 1.0)

    def _score(self, engine: SimulatedEngine, ticket: int, sample: int) -> None:
        if engine.alive:  # the verifier lives with its engine
            self.scheduler.on_scored(ticket, sample, 1.0)

    def _settle(self) -> None:
        """After an event: plan the engines it touched, and the scheduler's next timeout."""
        for engine in self.dirty:
            engine.replan()
        self.dirty.clear()
        due = self.scheduler.next_timeout()
        if due is not None and due <= self.calendar.now:
            self.scheduler.tick()
            self._settle()
        elif due is not None and self.calendar.upcoming() > due:
            self.calendar.at(due, lambda: None)

    def _start_engine(self, has_weights: bool) -> SimulatedEngine:
        faults = self.config.faults
        slow = self._faults.random() < faults.straggler_share
        slowdown = faults.straggler_slowdown if slow else 1.0
        # Version -1 shows up as an error of the scheduler's if it is ever sampled with.
        name = f"engine-{next(self._born)}"
        engine = SimulatedEngine(self, name, 0 if has_weights else -1, slowdown)
        self.engines[name] = engine
        if faults.engine_mtbf is not None:
            life = self._faults.expovariate(1 / faults.engine_mtbf)
            self.calendar.at(self.calendar.now + life, self._kill, engine)
        return engine

    def _kill(self, engine: SimulatedEngine) -> None:
        engine.alive = False
        del self.engines[engine.name]
        self.calendar.at(self.calendar.now + self.config.faults.replace_seconds, self._replace)
        self.scheduler.on_engine_failed(engine.name)

    def _replace(self) -> None:
        engine = self._start_engine(has_weights=False)
        self.scheduler.on_engine_joined(engine.name, engine)
