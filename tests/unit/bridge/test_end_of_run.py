"""When a run ends well. The actors are stand-ins, which note that the model is saved."""

import asyncio
from types import SimpleNamespace

import pytest

from vespo_openrlhf.bridge.events import StoppedError
from vespo_openrlhf.bridge.trainer import ScheduledTrainer
from vespo_openrlhf.scheduling import PromptLedger


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

    trainer = SimpleNamespace(actor_model_group=SimpleNamespace(async_save_model=save_model))
    check = ScheduledTrainer._check_given_up(
        trainer, SimpleNamespace(ledger=ledger(trained, abandoned))
    )
    if ends_well:
        asyncio.run(check)
        return
    with pytest.raises(StoppedError, match=f"{abandoned} prompts were given up"):
        asyncio.run(check)
    assert saved == ([trained] if trained else [])  # nothing is written where nothing was trained
