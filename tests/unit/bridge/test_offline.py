"""Recorded samples under our scheduler, in the place of an engine. Driver and trainer are
stand-ins; tests/e2e/test_training.py has them on the real stack."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest

from vespo_openrlhf.bridge.offline.behaviour import assumed, uniform
from vespo_openrlhf.bridge.offline.engine import ReplayEngine
from vespo_openrlhf.bridge.offline.rollouts import to_rollout
from vespo_openrlhf.bridge.offline.trainer import OfflineTrainer
from vespo_openrlhf.bridge.samples import mini_batches
from vespo_openrlhf.recorded.checks import Limits
from vespo_openrlhf.recorded.options import OfflineOptions
from vespo_openrlhf.recorded.reading import Recording
from vespo_openrlhf.recorded.schema import Origin, RecordedSample
from vespo_openrlhf.recorded.writing import write_shard
from vespo_openrlhf.scheduling import (
    Batch,
    BatchReport,
    LagOptions,
    PromptLedger,
    Scheduler,
    SchedulerConfig,
    TrainStep,
)

SIZE = 4  # samples of a group
LIMITS = Limits(10_000, 64)


def sample(ticket: int, place: int, **changes: Any) -> RecordedSample:
    """The first token is ticket * 10 + place."""
    values = {
        "tokens": numpy.array([ticket * 10 + place, 1, 2, 3, 4]),
        "action_mask": numpy.array([False, False, True, True, True]),
        "log_probs": numpy.full(5, -0.5),
        "reward": float(place % 2),
        "token_versions": ((ticket, 3),),
    } | changes
    return RecordedSample(ticket, place, SIZE, f"{ticket}:abc", **values)


@pytest.fixture
def record(tmp_path: Path) -> Callable[..., Recording]:
    """Eight groups, each of the version of its number, with these samples in their places."""

    def make(instead: Sequence[RecordedSample] = ()) -> Recording:
        samples = {(t, i): sample(t, i) for t in range(8) for i in range(SIZE)}
        samples |= {(each.ticket, each.sample): each for each in instead}
        write_shard(tmp_path / "rec.parquet", list(samples.values()), Origin("run"))
        return Recording([tmp_path], SIZE, LIMITS)

    return make


class Run:
    """Trains a recording: four groups a batch, two an update, on an event loop."""

    def __init__(self, recording: Recording, epochs: int = 1, seed: int | None = None) -> None:
        lag = LagOptions().synchronous(2)
        config = SchedulerConfig(
            prompts_per_batch=4,
            samples_per_prompt=SIZE,
            updates_per_batch=2,
            in_flight_per_engine=8,
            lag=lag,
        )
        self.batches: list[Batch] = []
        self.reports: list[BatchReport] = []
        self._tasks: set[asyncio.Task] = set()
        ledger = PromptLedger(recording.names, epochs, seed)
        self.scheduler = Scheduler(
            config, ledger, self, clock=lambda: 0.0, on_batch=self.reports.append
        )
        self.engine = ReplayEngine(self, recording, LIMITS.max_length)  # type: ignore[arg-type]

    def spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def wake(self) -> None: ...

    def train(self, step: TrainStep) -> None:
        if step.first == 0:
            self.batches.append(step.batch)
        self.spawn(self._later(self.scheduler.on_trained))

    def publish(self, version: int, engines: Sequence[str]) -> None:
        for name in engines:
            self.spawn(self._later(self.scheduler.on_engine_updated, name, version))

    async def _later(self, call: Any, *args: Any) -> None:
        await asyncio.sleep(0)
        call(*args)

    async def _run(self) -> None:
        self.scheduler.start({self.engine.name: self.engine})
        while not self.scheduler.finished:
            assert self._tasks
            await asyncio.wait(set(self._tasks), return_when=asyncio.FIRST_COMPLETED)

    def to_the_end(self) -> Run:
        asyncio.run(asyncio.wait_for(self._run(), 20))
        return self

    @property
    def trained(self) -> list[int]:
        """The first tokens, in the order of use."""
        items = [mini_batches.to_samples(batch, 2) for batch in self.batches]
        return [int(each.sequences[0, 0]) for batch in items for each in batch]


def test_the_recorded_order_is_the_order_of_training(record) -> None:
    run = Run(record()).to_the_end()
    assert run.trained == [t * 10 + i for t in range(8) for i in range(SIZE)]
    assert [report.updates for report in run.reports] == [2, 2]


def test_every_epoch_trains_everything_once_and_shuffled_in_another_order(record) -> None:
    run = Run(record(), epochs=3, seed=1).to_the_end()
    epochs = [run.trained[i : i + 32] for i in range(0, 96, 32)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)
    assert Run(record(), epochs=3, seed=1).to_the_end().trained == run.trained


def test_lag_is_that_of_the_versions_that_were_recorded(record) -> None:
    """Group t was sampled by version t. What is trained before that version is nobody's lag."""
    run = Run(record()).to_the_end()
    used = {0: 0, 1: 0, 2: 1, 3: 1, 4: 2, 5: 2, 6: 3, 7: 3}  # group -> update
    expected = [used[t] - t if t <= used[t] else math.nan for t in range(8) for _ in range(SIZE)]
    found = [lag for batch in run.batches for lag in mini_batches.lags(batch, 2)]
    assert numpy.array_equal(found, expected, equal_nan=True)
    first, second = map(mini_batches.recorded_lag, run.batches)
    assert first is not None
    assert dict(first.oldest) == {0: 4}
    assert second is None


def test_where_no_versions_are_known_there_is_no_lag(record) -> None:
    run = Run(record([sample(t, i, token_versions=()) for t in range(8) for i in range(SIZE)]))
    run.to_the_end()
    assert all(math.isnan(lag) for batch in run.batches for lag in mini_batches.lags(batch, 2))
    assert mini_batches.recorded_lag(run.batches[0]) is None


def test_a_sample_that_is_left_out_counts_for_nothing_and_is_counted(record) -> None:
    run = Run(record([sample(1, 2, log_probs=numpy.full(5, math.nan))])).to_the_end()
    samples = mini_batches.to_samples(run.batches[0], 2)
    acting = [bool(each.action_mask.any()) for each in samples]
    assert acting == [True] * 6 + [False] + [True] * 9
    assert run.reports[0].scalars()["scheduler/lost/not_recorded"] == 1


def test_a_request_that_is_given_up_is_not_answered(record) -> None:
    run = Run(record())
    told: list[int] = []
    run.scheduler = SimpleNamespace(  # type: ignore[assignment]
        on_generated=lambda ticket, *args: told.append(ticket),
        on_scored=lambda *args: None,
    )
    request = SimpleNamespace(prompt=SimpleNamespace(row=0), version=0)

    async def ask() -> None:
        for ticket in range(3):
            run.engine.generate(SimpleNamespace(ticket=ticket, **vars(request)))  # type: ignore[arg-type]
        run.engine.abort(1)
        await asyncio.wait(set(run._tasks))
        run.engine.generate(SimpleNamespace(ticket=3, **vars(request)))  # type: ignore[arg-type]
        await asyncio.wait(set(run._tasks))

    asyncio.run(ask())
    assert list(dict.fromkeys(told)) == [0, 2, 3]


def test_a_resume_on_other_samples_of_the_same_names_is_noticed(record) -> None:
    def ledger(recording: Recording) -> PromptLedger:
        trainer = SimpleNamespace(
            _recording=recording,
            _offline=OfflineOptions(data=("x",)),
            args=SimpleNamespace(data=SimpleNamespace(max_samples=6)),
        )
        return OfflineTrainer._ledger(trainer)  # type: ignore[arg-type]

    state = ledger(record()).state_dict()
    same = ledger(record())
    assert len(same.names) == 6
    same.load_state_dict(state, set())
    with pytest.raises(ValueError, match="was written on other prompts"):
        ledger(record([sample(0, 0, reward=0.25)])).load_state_dict(state, set())


class Maker:
    """An experience maker whose policy gives each token a log-prob by its place."""

    args = SimpleNamespace(
        actor=SimpleNamespace(model_name_or_path="model"), rollout=SimpleNamespace(temperature=1.0)
    )
    asked = 0

    def policy_log_probs(self, samples: Sequence[Any]) -> list[Any]:
        self.asked += len(samples)
        return [numpy.arange(1, 5) * -0.1 * each.action_mask[0].numpy() for each in samples]


def test_the_initial_policys_log_probs_are_computed_once_and_kept(record, tmp_path) -> None:
    recording = record([sample(1, 2, reward=None)])
    maker = Maker()
    made = assumed(recording, "initial", maker, tmp_path / "run", 0, LIMITS, SIZE)
    again = assumed(recording, "initial", maker, tmp_path / "run", 7, LIMITS, SIZE)
    assert maker.asked == 31  # each sample that there is, once
    for group, same, before in zip(made, again, recording, strict=True):
        assert [each is None for each in group] == [each is None for each in same]
        there = [each for each in before if each is not None]
        for each, old in zip([e for e in group if e is not None], there, strict=True):
            assert numpy.array_equal(each.tokens, old.tokens)
            assert each.reward == old.reward
            expected = [0, 0, -0.2, -0.3, -0.4]
            assert each.log_probs == pytest.approx(expected)
            assert each.token_versions == ((0, 3),)


def test_log_probs_that_are_gone_are_not_those_of_a_trained_policy(record, tmp_path) -> None:
    with pytest.raises(ValueError, match="and the policy has been trained since"):
        assumed(record(), "initial", Maker(), tmp_path / "run", 3, LIMITS, SIZE)


@pytest.mark.parametrize("change", ["rewards", "temperature"])
def test_log_probs_of_other_samples_are_not_taken_for_these(change: str, record, tmp_path) -> None:
    """Of the same names, and in the same run folder."""
    maker = Maker()
    assumed(record(), "initial", maker, tmp_path / "run", 0, LIMITS, SIZE)
    if change == "temperature":
        maker.args = SimpleNamespace(
            actor=maker.args.actor, rollout=SimpleNamespace(temperature=0.5)
        )
    other = record([sample(0, 0, reward=0.25)] if change == "rewards" else [])
    made = assumed(other, "initial", maker, tmp_path / "run", 0, LIMITS, SIZE)
    assert maker.asked == 64
    assert made.read(0)[0].reward == (0.25 if change == "rewards" else 0.0)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("rewarding", "recorded", "trained"),
    [
        ("recorded", 0.5, 0.5),
        ("none", 0.5, 0.5),
        ("none", None, 0.0),
        ("none", math.inf, 0.0),
        ("model", 0.5, None),
        ("model", None, None),
    ],
)
def test_a_sample_has_the_reward_of_whoever_gives_it(
    rewarding: Any, recorded: float | None, trained: float | None
) -> None:
    rollout = to_rollout(sample(0, 0, reward=recorded, logged={"score": 0.5}), 64, rewarding)
    rewards = rollout.experience.rewards
    assert (None if rewards is None else float(rewards[0])) == trained
    assert (rollout.experience.scores is None) == (rewarding == "model")


def test_uniform_gives_every_response_to_a_prompt_the_same_probability() -> None:
    masks = [numpy.array([False, True, True]), numpy.array([False, False, True, True, True, True])]
    log_probs = [numpy.array([0.0, -1.0, -2.0]), numpy.array([9.0, 9.0, -4.0, -1.0, -1.0, -1.0])]
    found = uniform(log_probs, masks)
    assert [values.sum() for values in found] == pytest.approx([-5.0, -5.0])  # of -3 and -7
    assert all((values[~mask] == 0).all() for values, mask in zip(found, masks, strict=True))


def test_uniform_log_probs_tell_no_version(record, tmp_path) -> None:
    made = assumed(record(), "uniform", Maker(), tmp_path / "run", 0, LIMITS, SIZE)
    group = [each for each in made.read(0) if each is not None]
    assert [each.token_versions for each in group] == [()] * SIZE
    assert [each.log_probs.sum() for each in group] == pytest.approx([-0.9] * SIZE)
