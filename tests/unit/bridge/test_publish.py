"""What the driver makes of an update that an engine does not survive.

Stand-ins: the engines, the trainer's actors and the driver note what they are told.
"""

import asyncio
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from vespo_openrlhf.bridge.errors import LostEnginesError, RefusedWeightsError, StoppedError
from vespo_openrlhf.bridge.run import evaluation
from vespo_openrlhf.bridge.run.checkpoints import Checkpoints
from vespo_openrlhf.bridge.run.evaluation import Evaluations
from vespo_openrlhf.bridge.run.state import RunState
from vespo_openrlhf.bridge.trainer import ScheduledTrainer
from vespo_openrlhf.bridge.weights.publishing import Publisher
from vespo_openrlhf.bridge.weights.sender import Sent


class Engine:
    def __init__(self, index: int) -> None:
        self.name, self.actor, self.dead = f"engine-{index}", self, False


class Publishing:
    """What `_publish` reads of a trainer whose actors raise `error`."""

    _publish = ScheduledTrainer._publish
    _give_weights = ScheduledTrainer._give_weights

    def __init__(self, error: Exception | None) -> None:
        self._weights = asyncio.Lock()
        self._global_step = 8
        self.engines = [Engine(0), Engine(1)]
        self.failed: list[str] = []
        self.updated: list[tuple[str, int]] = []
        self.evaluated = 0
        self.asked: list[str] = []
        self._driver = SimpleNamespace(
            by_name=lambda names: [e for e in self.engines if e.name in names],
            living=[],
            engine_failed=lambda engine, error: self.failed.append(engine.name),
            ask=self._ask,
            answers=self._answers,
            scheduler=SimpleNamespace(on_engine_updated=lambda *args: self.updated.append(args)),
            wake=lambda: None,
        )
        args = SimpleNamespace(
            vllm=SimpleNamespace(enable_sleep=False, weight_tolerance=0),
            ds=SimpleNamespace(param_dtype="fp32"),
        )
        actors = SimpleNamespace(async_run_method=self._run)
        self._publisher = Publisher(args, actors, self._driver, [])
        self._evaluations = SimpleNamespace(run_if_due=self._evaluate)
        self._error = error

    def _run(self, method: str, names: list[str], actors: list[Engine]) -> list:
        async def rank(error: Exception | None) -> Sent:
            if error is not None:
                raise error
            return Sent(messages=3, seconds=0.5)

        return [rank(self._error), rank(None)]

    async def _ask(self, engines: list[Engine], method: str, *args, **kwargs) -> list[Engine]:
        self.asked.append(method)
        return engines

    async def _answers(self, engines: list[Engine], method: str) -> dict[Engine, list]:
        self.asked.append(method)
        return {engine: [(10, 0.5)] for engine in engines}

    async def _evaluate(self, step: int, engines: list[Engine], driver: object) -> None:
        assert (step, engines) == (8, self.engines)
        self.evaluated += 1


def as_ray_raises(error: Exception) -> Exception:
    return ray.exceptions.RayTaskError("publish", "a traceback", error).as_instanceof_cause()


def test_engines_have_a_version_when_it_has_reached_them_all() -> None:
    trainer = Publishing(None)
    trainer._driver.living = trainer.engines
    asyncio.run(trainer._publish(4, ["engine-0", "engine-1"]))
    assert trainer.updated == [("engine-0", 4), ("engine-1", 4)]
    assert trainer.evaluated == 1
    assert not trainer.failed
    assert trainer._publisher.drain() == {
        "recompute/tokens": 20,
        "recompute/seconds": 1.0,
        "weights/messages": 3.0,
        "weights/seconds": 0.5,
    }
    assert trainer._publisher.drain() == {}


def test_all_that_took_part_in_a_broken_update_are_started_again() -> None:
    trainer = Publishing(as_ray_raises(LostEnginesError("engine-1 has died")))
    asyncio.run(trainer._publish(4, ["engine-0", "engine-1"]))
    assert trainer.failed == ["engine-0", "engine-1"]
    assert trainer.updated == []
    assert trainer.evaluated == 0  # on no engine at all


@pytest.mark.parametrize(
    "error", [as_ray_raises(RefusedWeightsError("no such layer")), ray.exceptions.RayActorError()]
)
def test_any_other_error_ends_the_run(error: Exception) -> None:
    trainer = Publishing(error)
    with pytest.raises(type(error)):
        asyncio.run(trainer._publish(4, ["engine-0", "engine-1"]))
    assert not trainer.failed
    assert trainer.asked[-1] == "is_alive"  # in which an engine that may not fail is named


@pytest.mark.parametrize("hangs", [True, False])
def test_an_evaluation_whose_reward_hangs_is_left_out_and_any_other_error_is_raised(
    hangs: bool, caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = TimeoutError("no word from its reward") if hangs else ValueError("no such problem")

    def evaluate(generator: object, step: int, **options: object) -> None:
        raise as_ray_raises(error)

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    trainer = Publishing(None)
    flags = SimpleNamespace(steps=2, n_samples_per_prompt=1, temperature=1.0)
    generator = SimpleNamespace(args=SimpleNamespace(eval=flags), eval_dataloader=[1])
    evaluations = Evaluations(generator, {}, 2)
    assert asyncio.run(evaluations.run_if_due(3, trainer.engines, trainer._driver)) is None
    assert not caplog.records  # not due
    work = evaluations.run_if_due(4, trainer.engines, trainer._driver)
    if hangs:
        assert asyncio.run(work) is None
        assert "no evaluation at global step 4: no word from its reward" in caplog.text
    else:
        with pytest.raises(ValueError, match="a traceback"):
            asyncio.run(work)


@pytest.mark.parametrize("kind", [StoppedError, RefusedWeightsError])
def test_the_error_that_stops_a_run_is_told_apart_through_ray(kind: type[Exception]) -> None:
    error = as_ray_raises(kind("no reward"))
    assert isinstance(error, StoppedError)
    assert str(error.cause) == "no reward"


def sharing(path: Path, **changes) -> SimpleNamespace:
    train = {"colocate_all": True, "async_enable": False} | changes
    return SimpleNamespace(
        args=SimpleNamespace(
            vllm=SimpleNamespace(sync_backend="nccl"),
            train=SimpleNamespace(**train),
        ),
        _state=RunState(SimpleNamespace(path=str(path))),
    )


def test_where_engines_share_the_trainers_gpus_the_end_names_the_last_checkpoint(tmp_path) -> None:
    trainer = sharing(tmp_path)
    assert ScheduledTrainer._shares_gpus(trainer)
    assert not ScheduledTrainer._shares_gpus(sharing(tmp_path, async_enable=True))
    assert not ScheduledTrainer._shares_gpus(sharing(tmp_path, colocate_all=False))
    assert "No checkpoint was saved" in ScheduledTrainer._why_no_restart(trainer)
    with Checkpoints(tmp_path).saving("global_step12"):
        folder = tmp_path / "_actor" / "global_step12"
        folder.mkdir(parents=True)
        (folder / "rank_0.pt").write_bytes(b"x")
    assert f"global_step12 in {tmp_path}" in ScheduledTrainer._why_no_restart(trainer)
