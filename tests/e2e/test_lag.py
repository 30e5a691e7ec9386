"""The lag that is recorded against what engine and trainer wrote down themselves."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROMPTS = 192  # conftest's
UPDATES = 48
ALL = "VESPO_TEST_ALL_LAGS"
Run = Any  # conftest's


@dataclass(frozen=True)
class Setting:
    """A bound, and updates per batch of 16 prompts; 48 updates in all."""

    bound: int
    updates_per_batch: int
    partial_rollout: bool

    @property
    def epochs(self) -> int:
        return UPDATES // self.updates_per_batch * 16 // PROMPTS


# A bound of 1 leaves room for one update per batch only. The middle four take long and are run
# where the variable is set; the two ends always.
SETTINGS = [
    Setting(bound, n, partial)
    for bound, n in ((1, 1), (4, 4), (16, 4))
    for partial in (False, True)
    if os.environ.get(ALL) or (bound, partial) in ((1, False), (16, True))
]


@pytest.fixture(scope="module", params=SETTINGS, ids=str)
def recorded(
    request: pytest.FixtureRequest,
    record: Callable[[int, int, bool], tuple[Run, Path]],
) -> tuple[Run, Path, Setting]:
    """A run, the folder of its recorder, and its setting."""
    setting: Setting = request.param
    return *record(setting.bound, setting.updates_per_batch, setting.partial_rollout), setting


def events(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    (path,) = folder.glob(f"{kind}-*.jsonl")
    for line in path.read_text().splitlines():
        yield json.loads(line)


def reconstruct(folder: Path) -> tuple[dict[str, list[int]], dict[str, list[int]], list[Counter]]:
    """From the recorder alone: by request its tokens and their versions, and by update the
    responses that were trained."""
    updates: list[Counter] = [Counter()]
    published = [0]  # version of the weights after each broadcast; at first the model's own
    for event in events(folder, "trainer"):
        if "responses" in event:
            updates[-1].update(map(tuple, event["responses"]))
        elif "step" in event:
            updates.append(Counter())
        else:
            published.append(len(updates) - 1)
    tokens: dict[str, list[int]] = {}
    versions: dict[str, list[int]] = {}
    received = 0
    for event in events(folder, "engine"):
        received += "weights" in event
        for request, new in event.get("tokens", {}).items():
            name = request.split("-")[0]  # vLLM appends digits of its own
            tokens.setdefault(name, []).extend(new)
            versions.setdefault(name, []).extend([published[received]] * len(new))
    return tokens, versions, updates


def test_recorded_versions_and_lags_are_those_of_the_engine_and_the_trainer(
    recorded: tuple[Run, Path, Setting],
) -> None:
    run, folder, setting = recorded
    tokens, versions, updates = reconstruct(folder)
    samples = [json.loads(line) for line in (run.folder / "samples.jsonl").open()]
    assert len(updates) == UPDATES + 1  # nothing is trained after the last step
    used: list[Counter] = [Counter() for _ in updates]
    lags: dict[int, list[int]] = {}
    for group in samples:
        for spans, (request,) in zip(group["spans"], group["requests"], strict=True):
            assert [v for v, count in spans for _ in range(count)] == versions[request]
            assert min(versions[request]) >= group["dispatched_version"]
            assert group["update"] - min(versions[request]) <= setting.bound
            used[group["update"]][tuple(tokens[request])] += 1
            lags.setdefault(group["batch"], []).extend(
                group["update"] - version for version in versions[request]
            )
    assert used == updates
    for line in run.metrics:
        of_batch = lags[line["step"] - 1]
        assert line["lag/max"] == max(of_batch) <= setting.bound
        assert line["lag/mean"] == pytest.approx(sum(of_batch) / len(of_batch))
    assert max(map(max, lags.values())) > 0  # the bound was made use of


def test_every_prompt_is_trained_once_in_every_epoch(
    recorded: tuple[Run, Path, Setting],
) -> None:
    run, _, setting = recorded
    samples = [json.loads(line) for line in (run.folder / "samples.jsonl").open()]
    times = Counter((group["epoch"], group["row"]) for group in samples)
    assert times == Counter((e, row) for e in range(setting.epochs) for row in range(PROMPTS))
    account = json.loads((run.folder / "prompts.json").read_text())
    for epoch in account:
        assert epoch["trained"] == PROMPTS
        left = ("undrawn", "filtered", "abandoned", "outstanding")
        assert not any(epoch[name] for name in left)


def test_a_loss_that_scales_the_step_does_so_in_every_update(
    recorded: tuple[Run, Path, Setting],
) -> None:
    run, _, setting = recorded
    lines = [json.loads(line) for line in (run.folder / "updates.jsonl").open()]
    scales = [line["vcpo/step_scale"] for line in lines if "vcpo/step_scale" in line]
    assert len(scales) == (0 if setting.partial_rollout else UPDATES)
    assert all(0 < scale <= 1 for scale in scales)
    assert min(scales, default=0) < 1
