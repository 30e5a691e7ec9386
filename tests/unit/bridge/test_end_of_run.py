"""When a run ends well, and what it leaves. The actors and the driver are stand-ins."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from vespo_openrlhf.bridge.errors import StoppedError
from vespo_openrlhf.bridge.run.dataset import check_given_up
from vespo_openrlhf.bridge.run.folder import RunFolder
from vespo_openrlhf.bridge.run.log import RunLog
from vespo_openrlhf.bridge.trainer import ScheduledTrainer
from vespo_openrlhf.scheduling import PolicyError, PromptLedger


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
    account = ledger(trained, abandoned).account()
    if ends_well:
        check_given_up(account)
        return
    with pytest.raises(StoppedError, match=f"{abandoned} prompts were given up"):
        check_given_up(account)


class Logger:
    """One of OpenRLHF's, as far as it is used here."""

    def __init__(self, name: str, done: list[str]) -> None:
        self.writer = self.handle = SimpleNamespace(define_metric=lambda *args, **kwargs: None)
        self.close = lambda: done.append(name)


class Ending:
    """A trainer at the end of its run: the driver fails as told, and each record notes its end."""

    _save_models = ScheduledTrainer._save_models
    _engines = ScheduledTrainer._engines

    def __init__(
        self,
        folder: Path,
        error: Exception | None,
        batches: int,
        critic: bool = True,
        full: bool = True,
    ) -> None:
        self.done: list[str] = []
        self._driver = SimpleNamespace(run=self._run)
        self._error = error
        self._account = folder / "prompts.json"
        loggers = Logger("tensorboard", self.done), Logger("wandb", self.done)
        self._log = RunLog(RunFolder(folder), *loggers, batches, 1)
        if full:
            self._account.mkdir()  # and cannot be written
        self.scheduler = SimpleNamespace(batches=batches, ledger=ledger(9, 0))
        self.args = SimpleNamespace(critic=SimpleNamespace(save_value_network=True))
        self.actor_model_group = self._group("actor")
        self.critic_model_group = self._group("critic") if critic else None

    def _group(self, name: str) -> SimpleNamespace:
        def save_model() -> list:
            self.done.append(name)
            return []

        return SimpleNamespace(async_save_model=save_model)

    async def _run(self, engines: None) -> None:
        if self._error:
            raise self._error

    def end(self) -> None:
        asyncio.run(ScheduledTrainer._run_to_the_end(self, self.scheduler))


LOGS = ["wandb", "tensorboard"]


@pytest.mark.parametrize("error", [StoppedError, PolicyError])
def test_a_run_that_is_stopped_writes_its_models(tmp_path: Path, error: type[Exception]) -> None:
    ending = Ending(tmp_path, error("why"), batches=1)
    with pytest.raises(error, match="why"):
        ending.end()
    assert ending.done == ["actor", "critic", *LOGS]


def test_a_run_that_is_stopped_before_it_has_trained_writes_none(tmp_path: Path) -> None:
    ending = Ending(tmp_path, StoppedError("no rewards"), batches=0)
    with pytest.raises(StoppedError, match="no rewards"):
        ending.end()
    assert ending.done == LOGS


def test_a_record_that_cannot_be_written_does_not_hide_why_the_run_ended(tmp_path: Path) -> None:
    ending = Ending(tmp_path, ValueError("why"), batches=1)
    with pytest.raises(ValueError, match="why"):
        ending.end()
    assert ending.done == LOGS


def test_a_run_that_ends_well_leaves_its_models_to_openrlhf(tmp_path: Path) -> None:
    ending = Ending(tmp_path, None, batches=1, critic=False, full=False)
    ending.end()
    assert ending.done == LOGS
    assert json.loads((tmp_path / "prompts.json").read_text())[0]["trained"] == 9


def test_a_run_that_cannot_write_its_records_has_not_ended_well(tmp_path: Path) -> None:
    ending = Ending(tmp_path, None, batches=1)
    with pytest.raises(OSError, match=r"prompts\.json"):
        ending.end()
    assert ending.done == LOGS
