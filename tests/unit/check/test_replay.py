"""Routing replay by hand, and what the driver holds against the real scheduler."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.bridge.scheduler_config import scheduler_config
from vespo_openrlhf.check import activations, memory
from vespo_openrlhf.check.memory import GIB
from vespo_openrlhf.check.recipe import submitted_flags
from vespo_openrlhf.check.replay import Replay, held_responses
from vespo_openrlhf.check.resolve import resolve
from vespo_openrlhf.check.shape import ModelShape
from vespo_openrlhf.scheduling import PromptLedger, Scheduler
from vespo_openrlhf.simulator.simulated_cluster import Cluster
from vespo_openrlhf.simulator.workload import ClusterConfig, Lengths

CONFIG = Path(__file__).parents[2] / "data" / "configs" / "Qwen3-30B-A3B-Base.json"
SCRIPTS = Path(__file__).parents[3] / "scripts"
MIXTURE = "--moe.routing_replay", "engine"


@pytest.fixture(scope="module")
def flags() -> dict[str, Any]:
    """Of the 30B model on 16 + 48 GPUs, with replay."""
    return resolve(submitted_flags(SCRIPTS / "qwen3-30b-a3b-async.sh", list(MIXTURE))).flags


@pytest.fixture(scope="module")
def shape() -> ModelShape:
    return ModelShape.from_config(json.loads(CONFIG.read_text()))


def test_qwen3_30b_by_hand(flags: dict[str, Any], shape: ModelShape) -> None:
    engine = memory.engine_memory(shape, flags, 79 * GIB)
    found = Replay.of(shape, flags, engine, 7680)
    assert found is not None
    assert found.token == 48 * 8
    # Beside the 49,152 bytes of key and value that each of an engine's two GPUs has of a token.
    assert found.engine == pytest.approx(engine.cache / 128, rel=1e-4)
    assert found.engine == pytest.approx(0.302 * GIB, rel=0.01)
    # L = 7 and N = 4: eight updates from the batch that trains on, and the four before it.
    assert found.responses == 12 * 2048
    assert found.store == 12 * 2048 * (256 + 7680) * 384  # 75 GB
    assert found.store_longest == 12 * 2048 * 16383 * 384  # 155 GB
    assert found.micro_batch == 16384 * 384 * 2 * 2  # int16, twice: 25 MB
    wide = Replay.of(replace(shape, experts=512), flags, engine, 7680)
    assert wide is not None
    assert (wide.token, wide.micro_batch) == (768, found.micro_batch)


def test_the_trainers_gpu_holds_what_it_replays(flags: dict[str, Any], shape: ModelShape) -> None:
    off = flags | {"moe.routing_replay": "off"}
    for terms in (activations.training_activations, activations.forward_activations):
        more = terms(shape, flags).items() - terms(shape, off).items()
        assert dict(more) == {activations.REPLAYED: 16384 * 384 * 4}


@pytest.mark.parametrize("changed", ["off", "dense"])
def test_nothing_is_counted_where_nothing_is_replayed(
    flags: dict[str, Any], shape: ModelShape, changed: str
) -> None:
    engine = memory.engine_memory(shape, flags, 79 * GIB)
    if changed == "off":
        flags = flags | {"moe.routing_replay": "off"}
    else:
        shape = replace(shape, experts=0, experts_per_token=0, sparse_layers=0)
    assert Replay.of(shape, flags, engine, 7680) is None
    assert activations.REPLAYED not in activations.training_activations(shape, flags)


@pytest.mark.parametrize(
    "lag",
    [
        {"lag.max": 3},
        {"lag.max": 16},
        {"lag.max": 9, "lag.sync_every": 1},
        {"lag.max": 16, "lag.on_stale": "keep"},
        {"train.async_enable": False, "lag.max": None},
        {"lag.policy": "fifo", "lag.max": None},
    ],
    ids=str,
)
def test_no_more_is_held_than_is_said(flags: dict[str, Any], lag: dict[str, Any]) -> None:
    """In simulated time, with a trainer that is always behind: every verdict until the batch after
    the sample's own begins."""
    sizes = {
        "rollout.batch_size": 16,
        "rollout.n_samples_per_prompt": 4,
        "train.batch_size": 16,
        "rollout.in_flight_per_engine": 32,
        "vllm.num_engines": 2,
        "lag.sync_every": None,
    }
    flags = flags | sizes | lag
    slow = ClusterConfig(2, 32, 0.02, 0.0, Lengths(60, 0.5, 200), train_tokens_per_second=100)
    cluster = Cluster(slow, 4)
    held = before = most = 0
    train = cluster.trainer.train

    def begun(step: Any) -> None:
        nonlocal held, before
        if step.first == 0:
            held -= before
            before = sum(len(group.payloads) for group in step.batch.groups)
        train(step)

    cluster.trainer.train = begun  # type: ignore[method-assign]
    ledger = PromptLedger([f"p{i}" for i in range(16 * 20)])
    scheduler = Scheduler(scheduler_config(flags), ledger, cluster.trainer, clock=cluster.clock)
    scored = scheduler.on_scored

    def on_scored(*verdict: Any) -> None:
        nonlocal held, most
        held += 1
        most = max(most, held)
        scored(*verdict)

    scheduler.on_scored = on_scored  # type: ignore[method-assign]
    cluster.run(scheduler)
    assert scheduler.batches == 20
    assert 0.6 * held_responses(flags) < most <= held_responses(flags)


@pytest.mark.parametrize(
    ("lag", "options", "found"),
    [
        ("7", (), ()),
        ("7", ("--node-memory", "512"), ()),
        # 3,072 responses of 4,352 tokens are 4.8 GiB, 0.3 x 10 GiB are 3.
        ("7", ("--node-memory", "10"), ("5 GiB of experts in Ray's object store", "3 GiB at most")),
        ("7", ("--node-memory", "4"), ("is asked for 5 of its 4 GiB", "lower --lag.max")),
        # 263,168 responses: 410 GiB, over Ray's 200 GB on any node.
        ("1023", (), ("410 GiB of experts", "186 GiB at most", "--object-store-memory 4837")),
    ],
)
def test_what_does_not_fit_is_warned_of(good, check, lag, options, found) -> None:
    replayed = {"moe.routing_replay": "engine", "lag.max": lag}
    _, output = check(good | replayed, "--model-config", str(CONFIG), *options)
    assert "384 bytes a token to replay" in output
    warnings = [line for line in output.splitlines() if line.startswith("warning")]
    ours = [line for line in warnings if "--moe.routing_replay engine" in line]
    assert bool(ours) == bool(found)
    assert not found or any(all(part in line for part in found) for line in ours)


def test_without_replay_the_report_says_nothing_of_it(good, check) -> None:
    for options in ((), ("--json",)):
        _, output = check(good, "--model-config", str(CONFIG), "--node-memory", "1", *options)
        if options:
            assert "replay" not in json.loads(output)
        else:
            assert "to replay" not in output
