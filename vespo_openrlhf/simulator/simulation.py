"""Runs in simulated time, presets, and the comparison with the loops there are today.

The two loops it compares with are this same scheduler with other settings. Synchronous: the least
lag there is, so that a batch is generated only when the one before has trained. OpenRLHF's queue
of one batch: one batch more of lag and no partial rollout, so that the next batch is generated
while one trains, and the engines finish it before they take new weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from vespo_openrlhf.scheduling.lag import LagOptions, minimum_lag
from vespo_openrlhf.scheduling.ledger import PromptLedger
from vespo_openrlhf.scheduling.metrics import BatchReport, weighted_mean
from vespo_openrlhf.scheduling.options import SchedulerConfig
from vespo_openrlhf.scheduling.scheduler import Scheduler

from .simulated_cluster import Cluster
from .workload import ClusterConfig, Lengths


@dataclass(frozen=True)
class Setup:
    """A cluster and the batches it works on.

    Args:
        cluster: engines and trainer.
        prompts_per_batch, samples_per_prompt: of a rollout batch.
        updates_per_batch: N, optimizer updates per rollout batch.
        in_flight_per_engine: sequences; None for as many as an engine decodes at once.
        routing_bytes_per_token: of the experts that a response token brings along to be replayed;
            0 for none.

    Raises:
        ValueError: bytes below 0.
    """

    cluster: ClusterConfig
    prompts_per_batch: int
    samples_per_prompt: int
    updates_per_batch: int
    in_flight_per_engine: int | None = None
    routing_bytes_per_token: float = 0.0

    def __post_init__(self) -> None:
        if self.routing_bytes_per_token < 0:
            raise ValueError(f"routing_bytes_per_token is {self.routing_bytes_per_token}, below 0")

    def scheduler_config(self, lag: LagOptions, *, partial_rollout: bool) -> SchedulerConfig:
        """The options of a run on this set-up. Raises ValueError where they do not fit."""
        in_flight = self.in_flight_per_engine
        return SchedulerConfig(
            prompts_per_batch=self.prompts_per_batch,
            samples_per_prompt=self.samples_per_prompt,
            updates_per_batch=self.updates_per_batch,
            in_flight_per_engine=self.cluster.max_sequences if in_flight is None else in_flight,
            lag=lag,
            partial_rollout=partial_rollout,
            reward_timeout=REWARD_TIMEOUT if self.cluster.faults.lost_reward_share else None,
        )


REWARD_TIMEOUT = 60.0  # seconds, where rewards get lost

PAPER_LENGTHS = Lengths(median=2000, sigma=0.894, cut=15_360)

PRESETS = {
    # The published asynchronous split, 48 rollout and 16 training GPUs.
    "paper-async": Setup(
        ClusterConfig(
            engines=48,
            max_sequences=256,
            step_seconds=0.020,
            step_seconds_per_sequence=0.00008,
            lengths=PAPER_LENGTHS,
        ),
        prompts_per_batch=1024,
        samples_per_prompt=8,
        updates_per_batch=4,
    ),
    # The same split and the same load per GPU on one node of 8 GPUs; runs in a second.
    "one-node": Setup(
        ClusterConfig(
            engines=6,
            max_sequences=256,
            step_seconds=0.020,
            step_seconds_per_sequence=0.00008,
            lengths=PAPER_LENGTHS,
        ),
        prompts_per_batch=128,
        samples_per_prompt=8,
        updates_per_batch=4,
    ),
}


@dataclass(frozen=True)
class RunLength:
    """Batches: before measuring starts, while it lasts, and while the engines run empty."""

    warm_up: int
    measured: int
    drain: int


SYNCHRONOUS = RunLength(1, 5, 0)
QUEUED = RunLength(2, 5, 1)
STREAMING = RunLength(12, 20, 4)


@dataclass(frozen=True)
class RunResult:
    """What a simulated run comes to. Shares are of the measured time, lags in updates.

    Attributes:
        max_lag: by the trainer's own account, over the whole run.
        mean_lag: over tokens.
        lag_tokens: tokens at each lag.
        waited: share of time in which a batch was ready and the trainer waited for older groups.
        dropped, resent, filtered, abandoned: groups, over the whole run.
        held_tokens: the most, over the whole run, of finished responses that are not let go: they
            wait, or train, or have trained and the next batch is only being made.
        lost: prompts that were drawn and are neither trained nor filtered out nor abandoned.
        duplicated: prompts that were trained more than once in an epoch.
    """

    samples_per_second: float
    tokens_per_second: float
    seconds_per_batch: float
    max_lag: int
    mean_lag: float
    lag_tokens: Mapping[int, int]
    final_working_lag: int | None
    ess: float | None
    trainer_idle: float
    engine_idle: float
    engine_occupancy: float
    waited: float
    dropped: int
    resent: int
    filtered: int
    abandoned: int
    held_tokens: int
    lost: int
    duplicated: int
    events: int


def simulate(
    setup: Setup, lag: LagOptions, length: RunLength, *, partial_rollout: bool, seed: int = 0
) -> RunResult:
    """One run.

    Args:
        setup: the cluster and its batches.
        lag: the bound; a `lag.max` of None leaves room for one batch in advance.
        length: at least one batch before the measured ones.
        partial_rollout: weights change in mid-response.
        seed: of lengths and faults.

    Raises:
        ValueError: options that do not fit each other, or faults that leave no batch to measure.
        RuntimeError: the run got stuck, which is an error of the scheduler's.
    """
    config = setup.scheduler_config(lag, partial_rollout=partial_rollout)
    cluster = Cluster(setup.cluster, setup.samples_per_prompt, seed)
    batches = length.warm_up + length.measured + length.drain
    accepted = 1 - setup.cluster.faults.filtered_share
    prompts = math.ceil(batches * setup.prompts_per_batch / accepted)
    ledger = PromptLedger([f"prompt-{i}" for i in range(prompts)])
    reports: list[BatchReport] = []
    scheduler = Scheduler(
        config,
        ledger,
        cluster.trainer,
        clock=cluster.clock,
        accept=cluster.accept,
        on_batch=reports.append,
    )
    cluster.run(scheduler)
    # Faults may cost whole batches at the end: measure what is there.
    measured = reports[length.warm_up : length.warm_up + length.measured]
    if not measured:
        given_up = len(ledger.names_with("abandoned", 0))
        raise ValueError(
            f"{given_up} of {prompts} prompts were given up, and no batch is left to "
            "measure: let fewer rewards get lost, or engines live longer"
        )
    return _result(measured, reports, cluster, scheduler)


def _result(
    measured: Sequence[BatchReport],
    reports: Sequence[BatchReport],
    cluster: Cluster,
    scheduler: Scheduler,
) -> RunResult:
    seconds = sum(report.seconds for report in measured)
    lag_tokens: Counter[int] = Counter()
    for report in measured:
        lag_tokens.update(report.lag.tokens)
    counters = Counter[str]()
    for report in reports:
        counters.update({k: v for k, v in vars(report.counters).items() if isinstance(v, int)})
    ledger, trained = scheduler.ledger, cluster.trainer.trained
    named = len(ledger.names_with("filtered", 0)) + len(ledger.names_with("abandoned", 0))

    def share(name: str) -> float:
        return sum(getattr(report, name) * report.seconds for report in measured) / seconds

    return RunResult(
        samples_per_second=sum(report.samples for report in measured) / seconds,
        tokens_per_second=sum(report.tokens for report in measured) / seconds,
        seconds_per_batch=seconds / len(measured),
        max_lag=cluster.trainer.max_lag,
        mean_lag=weighted_mean(lag_tokens),
        lag_tokens=dict(sorted(lag_tokens.items())),
        final_working_lag=scheduler.policy.working_lag,
        ess=measured[-1].ess,
        trainer_idle=share("trainer_idle"),
        engine_idle=share("engine_idle"),
        engine_occupancy=share("engine_occupancy"),
        waited=sum(report.counters.waited_seconds for report in measured) / seconds,
        dropped=counters["dropped"],
        resent=counters["resent"],
        filtered=counters["filtered"],
        abandoned=counters["abandoned"],
        held_tokens=cluster.trainer.held_tokens,
        lost=ledger.drawn - len(trained) - named,
        duplicated=sum(times > 1 for times in trained.values()),
        events=cluster.calendar.events,
    )


@dataclass(frozen=True)
class Baselines:
    """The two loops to compare with."""

    synchronous: RunResult
    queued: RunResult

    @classmethod
    def of(cls, setup: Setup, seed: int = 0) -> Baselines:
        """On the same cluster, with all it can hold in flight."""
        n = setup.updates_per_batch
        minimum = minimum_lag(n, n)
        return cls(
            simulate(setup, LagOptions(minimum), SYNCHRONOUS, partial_rollout=False, seed=seed),
            simulate(setup, LagOptions(minimum + n), QUEUED, partial_rollout=False, seed=seed),
        )


def summary(result: RunResult, baselines: Baselines, setup: Setup) -> dict[str, Any]:
    """A run and how it compares, as plain JSON data.

    Lags are in updates; those that end in `_batches` are divided by the updates per batch.
    """
    n = setup.updates_per_batch
    speed = result.samples_per_second
    routing = {}
    if bytes_per_token := setup.routing_bytes_per_token:
        per_second = bytes_per_token * result.tokens_per_second
        routing = {
            "routing_bytes_per_second": per_second,
            "routing_bytes_per_batch": per_second * result.seconds_per_batch,
            "routing_bytes_held": bytes_per_token * result.held_tokens,
        }
    return {
        "speedup_vs_sync": speed / baselines.synchronous.samples_per_second,
        "speedup_vs_queue": speed / baselines.queued.samples_per_second,
        "max_lag_batches": result.max_lag / n,
        "mean_lag_batches": result.mean_lag / n,
        "sync_samples_per_second": baselines.synchronous.samples_per_second,
        "queue_samples_per_second": baselines.queued.samples_per_second,
        **asdict(result),
        **routing,
    }
