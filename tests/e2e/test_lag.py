"""The lag that is recorded against what engine and trainer wrote down themselves."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

RECORDER = Path(__file__).parent / "recorder"
BATCHES = 12
Run = Any  # conftest's

# lag.max, and what goes with it. 16 prompts x 4 samples a batch: N = 64 / train.batch_size.
SETTINGS: dict[str, dict[str, Any]] = {
    "bound 1, engines finish first": {"lag__max": 1, "train__batch_size": 64},
    "bound 16, in mid-response": {"lag__max": 16, "train__partial_rollout_enable": True},
}


@pytest.fixture(scope="module", params=SETTINGS)
def recorded(
    request: pytest.FixtureRequest,
    train: Callable[..., Run],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Run, Path, int]:
    """A run, the folder of its recorder, and its bound."""
    folder = tmp_path_factory.mktemp("recorded")
    flags = SETTINGS[request.param]
    path = os.pathsep.join(filter(None, [str(RECORDER), os.environ.get("PYTHONPATH")]))
    run = train(
        environment={"VESPO_TEST_RECORD": str(folder), "PYTHONPATH": path},
        train__async_enable=True,
        data__max_samples=16 * BATCHES,
        **flags,
    )
    return run, folder, flags["lag__max"]


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
    recorded: tuple[Run, Path, int],
) -> None:
    run, folder, bound = recorded
    tokens, versions, updates = reconstruct(folder)
    samples = [json.loads(line) for line in (run.folder / "samples.jsonl").open()]
    assert len(samples) == 16 * BATCHES
    used: list[Counter] = [Counter() for _ in updates]
    lags: dict[int, list[int]] = {}
    for group in samples:
        for spans, (request,) in zip(group["spans"], group["requests"], strict=True):
            assert [v for v, count in spans for _ in range(count)] == versions[request]
            assert min(versions[request]) >= group["dispatched_version"]
            assert group["update"] - min(versions[request]) <= bound
            used[group["update"]][tuple(tokens[request])] += 1
            lags.setdefault(group["batch"], []).extend(
                group["update"] - version for version in versions[request]
            )
    assert used == updates
    for line in run.metrics:
        of_batch = lags[line["step"] - 1]
        assert line["lag/max"] == max(of_batch) <= bound
        assert line["lag/mean"] == pytest.approx(sum(of_batch) / len(of_batch))
    assert max(map(max, lags.values())) > 0  # the bound was made use of


def test_every_prompt_is_trained_once(recorded: tuple[Run, Path, int]) -> None:
    run, _, _ = recorded
    samples = [json.loads(line) for line in (run.folder / "samples.jsonl").open()]
    assert Counter(group["row"] for group in samples) == Counter(range(16 * BATCHES))
    (epoch,) = json.loads((run.folder / "prompts.json").read_text())
    assert epoch["trained"] == 16 * BATCHES
    assert not any(epoch[name] for name in ("undrawn", "filtered", "abandoned", "outstanding"))
