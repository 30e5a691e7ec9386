"""The trainer's decisions that need no cluster: driver, actors and engines are stand-ins."""

import asyncio
from types import SimpleNamespace

import pytest

from vespo_openrlhf.bridge.events import StoppedError
from vespo_openrlhf.bridge.trainer import ScheduledTrainer
from vespo_openrlhf.scheduling import PromptLedger


class Driver:
    """Engines of which none survives the update that they are asked for."""

    def __init__(self) -> None:
        self.engines = [SimpleNamespace(name="engine-0", actor=None, dead=False)]
        self.scheduler = SimpleNamespace(on_engine_updated=lambda name, version: None)

    @property
    def living(self) -> list:
        return [engine for engine in self.engines if not engine.dead]

    def by_name(self, names) -> list:
        return [engine for engine in self.living if engine.name in names]

    async def ask(self, engines, method, *args, **kwargs) -> list:
        for engine in engines:
            engine.dead = True
        return []

    async def answers(self, engines, method, *args, **kwargs) -> dict:
        return dict.fromkeys(await self.ask(engines, method), None)

    def wake(self) -> None:
        pass


def bare_trainer(**attributes) -> ScheduledTrainer:
    trainer = object.__new__(ScheduledTrainer)
    for name, value in attributes.items():
        setattr(trainer, name, value)
    return trainer


def test_an_evaluation_that_is_due_when_the_only_engine_dies_is_left_out() -> None:
    """No engine was updated, and none is alive: as many, and nothing to evaluate on."""
    evaluated = []
    args = SimpleNamespace(
        vllm=SimpleNamespace(enable_sleep=False, weight_tolerance=0.0),
        eval=SimpleNamespace(steps=1),
        ds=SimpleNamespace(param_dtype="bf16"),
    )
    trainer = bare_trainer(
        args=args, _weights=asyncio.Lock(), _driver=Driver(), _checked=set(), _trial_prompts=[]
    )
    trainer._evaluate_if_due = evaluated.append
    asyncio.run(trainer._publish(4, ["engine-0"]))
    assert not evaluated


def ledger(trained: int, abandoned: int) -> PromptLedger:
    prompts = PromptLedger([f"p{row}" for row in range(trained + abandoned)])
    for row in range(trained + abandoned):
        prompts.settle(prompts.draw(), "trained" if row < trained else "abandoned")
    return prompts


@pytest.mark.parametrize(
    ("trained", "abandoned", "ends_well"),
    [(9, 1, True), (90, 10, True), (8, 1, False), (0, 3, False)],
)
def test_a_run_that_lost_a_tenth_of_its_prompts_does_not_end_well(
    trained: int, abandoned: int, ends_well: bool
) -> None:
    saved = []

    def save_model() -> list:
        saved.append(trained)
        return []

    trainer = bare_trainer(actor_model_group=SimpleNamespace(async_save_model=save_model))
    check = trainer._check_given_up(SimpleNamespace(ledger=ledger(trained, abandoned)))
    if ends_well:
        asyncio.run(check)
        return
    with pytest.raises(StoppedError, match=f"{abandoned} prompts were given up"):
        asyncio.run(check)
    assert saved == ([trained] if trained else [])  # nothing is written where nothing was trained
