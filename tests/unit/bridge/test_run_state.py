"""What a checkpoint holds of the run, and what is made of it. The scheduler is a stand-in."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vespo_openrlhf.bridge.run.state import RunState


def flags(folder: Path, save_steps: float = 4) -> SimpleNamespace:
    return SimpleNamespace(path=str(folder), save_steps=save_steps, max_num=2, max_mem=float("inf"))


class Scheduler:
    version, state = 16, {"drawn": 9}

    def __init__(self, groups: list[Any]) -> None:
        self.ledger = SimpleNamespace(drawn=9, outstanding=lambda: [1, 2, 3])
        self.live = SimpleNamespace(complete_groups=lambda: groups, complete=len(groups))
        self.loaded: list[Any] = []

    def state_dict(self) -> dict[str, int]:
        return self.state

    def load_state_dict(self, state: dict[str, int], rollouts: dict[int, Any]) -> None:
        self.loaded = [state, rollouts]


def test_a_run_goes_on_with_what_it_has_saved(make_group, tmp_path: Path, caplog) -> None:
    group = make_group(3, [1.0, None])
    state = RunState(flags(tmp_path))
    scheduler: Any = Scheduler([group])
    assert state.snapshot(7, scheduler) is None
    snapshot = state.snapshot(8, scheduler)
    assert snapshot is not None
    state.save(snapshot, lambda: (tmp_path / "_actor" / "global_step8").mkdir(parents=True))
    resumed: Any = Scheduler([group])
    caplog.set_level("INFO")
    RunState(flags(tmp_path)).restore(resumed, snapshot.states)
    loaded, rollouts = resumed.loaded
    assert loaded == scheduler.state
    (rollout, missing) = rollouts[3]
    assert missing is None
    assert rollout.request_ids == ("request-31",)
    assert "with 1 buffered groups and 2 prompts to send again" in caplog.text
    assert "The last checkpoint is global_step8" in state.advice()


def test_a_run_that_never_saves_has_no_snapshot(tmp_path: Path) -> None:
    state, scheduler = RunState(flags(tmp_path, math.inf)), Scheduler([])
    assert state.snapshot(8, scheduler) is None  # type: ignore[arg-type]
    assert "No checkpoint was saved" in state.advice()


def test_a_checkpoint_of_openrlhfs_own_trainer_is_none_to_go_on_from(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no scheduler state: .*--actor\.model_name_or_path"):
        RunState(flags(tmp_path)).restore(Scheduler([]), {"global_step": 8})  # type: ignore[arg-type]
