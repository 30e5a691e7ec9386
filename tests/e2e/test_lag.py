"""The lag that is recorded against what engine and trainer wrote down themselves."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PROMPTS = 128  # conftest's
ALL = "VESPO_TEST_ALL_LAGS"
Run = Any  # conftest's


@dataclass(frozen=True)
class Setting:
    """A bound, and updates per batch of 16 prompts. With an agent, of two turns a sample."""

    bound: int
    updates_per_batch: int
    partial_rollout: bool
    agent: bool = False

    def __str__(self) -> str:
        names = f"bound_{self.bound}-{self.updates_per_batch}_updates"
        return names + "-partial" * self.partial_rollout + "-agent" * self.agent

    @property
    def epochs(self) -> int:
        return 2 if self.updates_per_batch == 1 else 1  # conftest's

    @property
    def updates(self) -> int:
        return self.epochs * PROMPTS // 16 * self.updates_per_batch


# A bound of 1 leaves room for one update per batch only. The middle four take long and are run
# where the variable is set; the two ends always.
SETTINGS = [
    Setting(bound, n, partial)
    for bound, n in ((1, 1), (4, 4), (16, 4))
    for partial in (False, True)
    if os.environ.get(ALL) or (bound, partial) in ((1, False), (16, True))
] + [Setting(16, 4, partial_rollout=True, agent=True)]


@pytest.fixture(scope="module", params=SETTINGS, ids=str)
def recorded(
    request: pytest.FixtureRequest,
    record: Callable[[int, int, bool, bool], tuple[Run, Path]],
) -> tuple[Run, Path, Setting]:
    """A run, the folder of its recorder, and its setting."""
    setting: Setting = request.param
    return *record(*dataclasses.astuple(setting)), setting


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
    assert len(updates) == setting.updates + 1  # nothing is trained after the last step
    used: list[Counter] = [Counter() for _ in updates]
    lags: dict[int, list[int]] = {}
    for group in samples:
        for spans, requests in zip(group["spans"], group["requests"], strict=True):
            if requests is None:  # it was given up, and nothing of it is trained
                used[group["update"]][()] += 1
                continue
            assert len(requests) == 1 + setting.agent
            sampled = [version for request in requests for version in versions[request]]
            assert [v for v, count in spans for _ in range(count)] == sampled
            assert min(sampled) >= group["dispatched_version"]
            assert group["update"] - min(sampled) <= setting.bound
            used[group["update"]][tuple(t for request in requests for t in tokens[request])] += 1
            lags.setdefault(group["batch"], []).extend(group["update"] - v for v in sampled)
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
    assert len(scales) == (0 if setting.partial_rollout else setting.updates)
    assert all(0 < scale <= 1 for scale in scales)
    assert min(scales, default=0) < 1


def test_turns_lie_under_different_weights_and_the_rest_of_a_group_goes_on(
    recorded: tuple[Run, Path, Setting],
) -> None:
    """What does not end well is given up, and counted for what it was."""
    run, folder, setting = recorded
    samples = [json.loads(line) for line in (run.folder / "samples.jsonl").open()]
    lost = [(group, i) for group in samples for i, r in enumerate(group["requests"]) if r is None]
    if not setting.agent:
        assert not lost
        return
    # Of the first, one with an environment that hangs, and one with a generation that does.
    reasons = {"episode_timeout": 2, "max_turns": 1, "failed": 1}
    counted = {
        reason: sum(line.get(f"scheduler/lost/{reason}", 0) for line in run.metrics)
        for reason in reasons
    }
    assert counted == reasons
    assert len(lost) == sum(reasons.values())
    for group, sample in lost:
        assert group["rewards"][sample] is None
        assert sum(reward is not None for reward in group["rewards"]) == 3
    _, versions, _ = reconstruct(folder)
    apart = [
        (versions[first][-1], versions[second][0])
        for group in samples
        for first, second in filter(None, group["requests"])
    ]
    assert any(first < second for first, second in apart), "no sync fell between two turns"
    assert all(line["unattributed_tokens"] == 0 for line in run.metrics)
