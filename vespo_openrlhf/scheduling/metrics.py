"""What one batch tells about the run: lag, waiting, idle shares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .engines import EnginePool
from .groups import Batch
from .lag import Spans
from .live import LiveGroups


@dataclass(frozen=True)
class LagStatistics:
    """The lag at which a batch was used, in updates; of no sample, where none is known.

    Attributes:
        tokens: tokens at each lag.
        oldest: samples by the lag of their oldest token.
        versions: tokens sampled by each policy version.
        after_sync: tokens sampled after their response had been given new weights: with the KV
            cache kept, on one that older weights have computed.
    """

    tokens: Mapping[int, int]
    oldest: Mapping[int, int]
    versions: Mapping[int, int]
    after_sync: int

    @classmethod
    def of(cls, batch: Batch) -> LagStatistics:
        """Counted with each mini-batch at its own version."""
        return cls.count(
            (version, spans)
            for version, mini_batch in enumerate(batch.mini_batches, start=batch.version)
            for group in mini_batch
            for spans in group.spans
        )

    @classmethod
    def count(cls, samples: Iterable[tuple[int, Spans]]) -> LagStatistics:
        """Of samples, each with the version at which it was used and its spans."""
        tokens: dict[int, int] = {}
        oldest: dict[int, int] = {}
        versions: dict[int, int] = {}
        after_sync = 0
        for version, spans in samples:
            lag = version - spans[0][0]
            oldest[lag] = oldest.get(lag, 0) + 1
            after_sync += sum(count for _, count in spans[1:])
            for sampled, count in spans:
                lag = version - sampled
                tokens[lag] = tokens.get(lag, 0) + count
                versions[sampled] = versions.get(sampled, 0) + count
        tokens, oldest, versions = (dict(sorted(d.items())) for d in (tokens, oldest, versions))
        return cls(tokens, oldest, versions, after_sync)

    @property
    def max(self) -> int:
        """Lag of the oldest token of the batch, in updates."""
        return max(self.oldest, default=0)

    @property
    def mean(self) -> float:
        """Mean lag over tokens, in updates."""
        return weighted_mean(self.tokens)

    @property
    def mean_oldest(self) -> float:
        """Mean over samples of the lag of the oldest token, in updates."""
        return weighted_mean(self.oldest)


def weighted_mean(histogram: Mapping[int, int]) -> float:
    """Mean of the keys, weighted by the values; 0 for an empty histogram."""
    return _ratio(sum(key * n for key, n in histogram.items()), sum(histogram.values()))


@dataclass
class Counters:
    """Events since the last batch, in groups unless the name says otherwise.

    Attributes:
        dropped: too old to be used; the prompt was sent again.
        filtered: not accepted by the filter.
        resent: lost to a dead engine or for want of rewards; the prompt was sent again.
        abandoned: prompts given up after too many losses.
        unscored_samples: samples whose reward failed or never came.
        lost: these by the reason, of those that have one.
        over_limit_samples: trained although older than the bound (on_stale "keep").
        late_events: engine events about requests that were given up before.
        waits: times the trainer had a whole batch and waited for an older group.
        waited_seconds: how long it did.
    """

    dropped: int = 0
    filtered: int = 0
    resent: int = 0
    abandoned: int = 0
    unscored_samples: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    over_limit_samples: int = 0
    late_events: int = 0
    waits: int = 0
    waited_seconds: float = 0.0

    def lose_sample(self, reason: str) -> None:
        """A sample has no reward."""
        self.unscored_samples += 1
        if reason:
            self.lost[reason] = self.lost.get(reason, 0) + 1

    def scalars(self) -> dict[str, float]:
        """Flat name -> number."""
        flat: dict[str, float] = {n: v for n, v in vars(self).items() if n != "lost"}
        return flat | {f"lost/{reason}": count for reason, count in self.lost.items()}


@dataclass(frozen=True)
class BatchReport:
    """One trained batch.

    Attributes:
        index, version, updates: which batch; the trainer's version before it, and its updates.
        groups, samples, tokens: its size.
        seconds: since the report before it.
        working_lag: what the policy goes by, in updates; None where it has no such thing.
        ess: effective sample size as a share, where the trainer measures it.
        lag: its lag statistics.
        counters: what happened since the report before it.
        in_flight: sequences that were not generated yet when it was done.
        away: those of them that were with their environment.
        in_flight_groups, queued_groups: groups not complete, and complete but not trained, then.
        stages: mean seconds per sample of "generation" (from its dispatch to its last token), less
            those away with its "environment", of these, and of "reward"; per group of "queue"; and
            in all of "train" and "publish".
        trainer_idle: share of the time in which the trainer neither trained nor published.
        engine_idle: share of engine time with nothing on the engine.
        engine_occupancy: sequences on the engines as a share of capacity, over time.
    """

    index: int
    version: int
    updates: int
    groups: int
    samples: int
    tokens: int
    seconds: float
    working_lag: int | None
    ess: float | None
    lag: LagStatistics
    counters: Counters
    in_flight: int
    away: int
    in_flight_groups: int
    queued_groups: int
    stages: Mapping[str, float]
    trainer_idle: float
    engine_idle: float
    engine_occupancy: float

    def scalars(self) -> dict[str, float]:
        """Flat name -> number, for TensorBoard and metrics.jsonl.

        Histograms are shares under a key per bin: lag_tokens/3, lag_oldest/3, and
        token_version/-2 for the tokens sampled two versions before the batch's first update.
        """
        tokens = max(self.tokens, 1)
        flat: dict[str, float] = {
            "scheduler/in_flight_samples": self.in_flight,
            "scheduler/away_samples": self.away,
            "scheduler/in_flight_groups": self.in_flight_groups,
            "scheduler/queued_groups": self.queued_groups,
            "scheduler/trainer_idle": self.trainer_idle,
            "scheduler/engine_idle": self.engine_idle,
            "scheduler/engine_occupancy": self.engine_occupancy,
            "scheduler/samples_per_second": self.samples / self.seconds if self.seconds else 0.0,
        }
        if self.lag.oldest:
            flat["lag/max"] = self.lag.max
            flat["lag/mean"] = self.lag.mean
            flat["lag/mean_oldest"] = self.lag.mean_oldest
            flat["lag/tokens_after_sync"] = self.lag.after_sync / tokens
        if self.working_lag is not None:
            flat["lag/working"] = self.working_lag
        if self.ess is not None:
            flat["lag/ess"] = self.ess
        for name, count in self.counters.scalars().items():
            flat[f"scheduler/{name}"] = count
        for stage, seconds in self.stages.items():
            flat[f"timing/{stage}"] = seconds
        for lag, count in self.lag.tokens.items():
            flat[f"lag_tokens/{lag}"] = count / tokens
        for lag, count in self.lag.oldest.items():
            flat[f"lag_oldest/{lag}"] = count / self.samples
        for version, count in self.lag.versions.items():
            flat[f"token_version/{version - self.version}"] = count / tokens
        return flat


class Recorder:
    """Adds up what happens between two reports. Times are seconds on the scheduler's clock."""

    def __init__(self, now: float) -> None:
        self._now = now
        self._begin()

        self._waiting_since: float | None = None

    def _begin(self) -> None:
        self._start = self._now
        self.counters = Counters()
        self._engine_seconds = 0.0
        self._idle_engine_seconds = 0.0
        self._sequence_seconds = 0.0
        self._slot_seconds = 0.0
        self._trainer_seconds = dict.fromkeys(("idle", "train", "publish"), 0.0)
        self._generation_seconds = 0.0
        self._environment_seconds = 0.0
        self._generated = 0
        self._reward_seconds = 0.0
        self._scored = 0

    def advance(self, now: float, pool: EnginePool, trainer: str) -> None:
        """Up to `now` the engines and the trainer ("idle", "train", "publish") were as they are.

        Called before each change of either.
        """
        elapsed = now - self._now
        if elapsed <= 0:
            return
        self._now = now
        engines = len(pool.ready)
        self._engine_seconds += engines * elapsed
        self._idle_engine_seconds += pool.idle * elapsed
        self._sequence_seconds += pool.on_engines * elapsed
        self._slot_seconds += engines * pool.capacity * elapsed
        self._trainer_seconds[trainer] += elapsed

    def generated(self, seconds: float, away: float) -> None:
        """A sample was generated, this long after its group was dispatched, and was `away` from its
        engine for so much of it."""
        self._generation_seconds += seconds - away
        self._environment_seconds += away
        self._generated += 1

    def scored(self, seconds: float) -> None:
        """A sample was scored, this long after it was generated."""
        self._reward_seconds += seconds
        self._scored += 1

    def waiting(self, waiting: bool, now: float) -> None:
        """Whether the trainer could train a whole batch and waits for an older group instead."""
        if waiting and self._waiting_since is None:
            self._waiting_since = now
            self.counters.waits += 1
        elif not waiting and self._waiting_since is not None:
            self.counters.waited_seconds += now - self._waiting_since
            self._waiting_since = None

    def report(
        self,
        batch: Batch,
        pool: EnginePool,
        live: LiveGroups,
        *,
        started: float,
        working_lag: int | None,
        limit: int | None,
        ess: float | None,
    ) -> BatchReport:
        """The report on a batch that has just been trained; the next one starts from zero.

        Args:
            batch, pool, live: as they are now.
            started: when the batch went to the trainer.
            working_lag, limit: the policy's, in updates.
            ess: as measured by the trainer.
        """
        lag = LagStatistics.of(batch)
        groups = list(batch.groups)
        if limit is not None:
            over_limit = sum(count for age, count in lag.oldest.items() if age > limit)
            self.counters.over_limit_samples = over_limit
        queued = sum(started - group.completed_at for group in groups)
        seconds = self._now - self._start
        report = BatchReport(
            index=batch.index,
            version=batch.version,
            updates=len(batch.mini_batches),
            groups=len(groups),
            samples=sum(lag.oldest.values()),
            tokens=sum(lag.tokens.values()),
            seconds=seconds,
            working_lag=working_lag,
            ess=ess,
            lag=lag,
            counters=self.counters,
            in_flight=pool.in_flight,
            away=pool.away,
            in_flight_groups=live.in_flight,
            queued_groups=live.complete,
            stages={
                "generation": _ratio(self._generation_seconds, self._generated),
                "environment": _ratio(self._environment_seconds, self._generated),
                "reward": _ratio(self._reward_seconds, self._scored),
                "queue": _ratio(queued, len(groups)),
                "train": self._trainer_seconds["train"],
                "publish": self._trainer_seconds["publish"],
            },
            trainer_idle=_ratio(self._trainer_seconds["idle"], seconds),
            engine_idle=_ratio(self._idle_engine_seconds, self._engine_seconds),
            engine_occupancy=_ratio(self._sequence_seconds, self._slot_seconds),
        )
        self._begin()
        return report


def _ratio(amount: float, total: float) -> float:
    return amount / total if total else 0.0
