"""Memory and time by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.check import memory, speed, states
from vespo_openrlhf.check.batches import Batches
from vespo_openrlhf.check.gpus import Cluster
from vespo_openrlhf.check.memory import GIB
from vespo_openrlhf.check.recipe import submitted_flags
from vespo_openrlhf.check.resolve import resolve
from vespo_openrlhf.check.shape import ModelShape, fetch, find_config

CONFIGS = Path(__file__).parents[2] / "data" / "configs"
SCRIPTS = Path(__file__).parents[3] / "scripts"


def shape(name: str) -> ModelShape:
    return ModelShape.from_config(json.loads((CONFIGS / f"{name}.json").read_text()))


@pytest.fixture(scope="module")
def flags() -> dict[str, Any]:
    """Of the 30B model on 16 + 48 GPUs."""
    return resolve(submitted_flags(SCRIPTS / "qwen3-30b-a3b-async.sh", [])).flags


def test_states_of_16_bit_training_are_16_bytes_a_parameter() -> None:
    held = states.training_states(1000, zero_stage=3, shards=1, dtype="bf16")
    assert (held.parameters, held.gradients, held.optimizer) == (2000, 2000, 12000)
    shared = states.training_states(1000, zero_stage=2, shards=4, dtype="bf16")
    assert (shared.parameters, shared.gradients, shared.optimizer) == (2000, 500, 3000)
    offloaded = states.training_states(1000, zero_stage=3, shards=4, dtype="bf16", offload=True)
    assert offloaded.total == 500


def test_gradients_added_up_in_float32_take_4_bytes_a_parameter(flags: dict[str, Any]) -> None:
    held = states.training_states(1000, zero_stage=3, shards=4, dtype="bf16", gradient_dtype="fp32")
    assert (held.parameters, held.gradients, held.optimizer) == (500, 1000, 3000)
    model = shape("Qwen3-30B-A3B-Base")
    assert flags["ds.grad_accum_dtype"] == "fp32"
    terms = memory.trainer_memory(model, flags, 79 * GIB, reads_old_log_probs=False).terms
    assert terms["gradients"] == model.parameters * 4 / 16


def test_with_adapters_only_they_have_gradients_and_an_optimizer(flags: dict[str, Any]) -> None:
    held = states.training_states(1000, trained=10, zero_stage=3, shards=1, dtype="bf16")
    assert (held.parameters, held.gradients, held.optimizer) == (2000, 20, 120)
    model = shape("Qwen3-0.6B")
    # Rank times in + out: queries, keys, values, output; gate, up, down; in 28 layers.
    attention = (1024 + 2048) + 2 * (1024 + 1024) + (2048 + 1024)
    trained = 28 * 32 * (attention + 3 * (1024 + 3072))
    assert model.adapter_parameters(32) == trained
    changed = flags | {"ds.lora.rank": 32, "ds.grad_accum_dtype": None}
    terms = memory.trainer_memory(model, changed, 79 * GIB, reads_old_log_probs=False).terms
    assert terms["optimizer"] == 12 * trained / 16
    assert terms["weights"] == 2 * (model.parameters + trained) / 16
    experts = shape("Qwen3-30B-A3B-Base")  # attention alone has adapters there
    assert experts.adapter_parameters(1) == 48 * (4 * 2048 + 2 * (4096 + 512))


def test_the_cache_of_a_token() -> None:
    model = shape("Qwen3-30B-A3B-Base")
    # Key and value, 2 bytes, 48 layers, 4 heads of 128.
    assert memory.token_bytes(model, 1) == 2 * 2 * 48 * 4 * 128
    assert memory.token_bytes(model, 4) == 2 * 2 * 48 * 128
    # Four heads on eight GPUs: each holds a whole one.
    assert memory.token_bytes(model, 8) == memory.token_bytes(model, 4)


def test_the_trainers_memory_is_its_terms(flags: dict[str, Any]) -> None:
    model = shape("Qwen3-30B-A3B-Base")
    taken = memory.trainer_memory(model, flags, 79 * GIB, reads_old_log_probs=False)
    assert taken.terms["optimizer"] == model.parameters * 12 / 16
    head = 12 * 2**27 + 12 * 16384 * 2048 + 2 * 151936 * 2048  # with the entropy
    assert taken.terms["log-prob head"] == head
    assert taken.total == sum(taken.terms.values())
    assert taken.largest(1).startswith("optimizer 21.3")
    longer = flags | {"train.max_tokens_per_gpu": 32768}
    assert memory.trainer_memory(model, longer, 79 * GIB, reads_old_log_probs=False).total > (
        taken.total
    )


def test_whole_logits_are_counted_where_they_are_made(flags: dict[str, Any]) -> None:
    model = shape("Qwen3-30B-A3B-Base")

    def taken(**options: Any) -> memory.Memory:
        changed = flags | {name.replace("__", "."): value for name, value in options.items()}
        return memory.trainer_memory(model, changed, 79 * GIB, reads_old_log_probs=False)

    logits = "logits and their gradient"
    for full in ({"actor__log_prob_head": "full"}, {"ds__ring_attn_size": 2}):
        tokens = 16384
        assert taken(actor__entropy_coef=None, **full).terms[logits] == 10 * tokens * 151936
        assert taken(actor__entropy_coef=0.0, **full).terms[logits] == 18 * tokens * 151936
        assert taken(actor__entropy_coef=0.0, **full).largest(1).startswith(logits)
    head = "log-prob head"
    more = taken(actor__entropy_coef=0.0).terms[head] - taken(actor__entropy_coef=None).terms[head]
    assert more == 4 * 2**27
    full = taken(actor__log_prob_head="full", actor__entropy_coef=None).terms[logits]
    assert taken(actor__entropy_coef=None).terms[head] < 0.1 * full


def test_sleep_makes_room_on_a_shared_gpu(flags: dict[str, Any]) -> None:
    shared = flags | {"train.async_enable": False, "train.colocate_all": True}
    model = shape("Qwen3-30B-A3B-Base")

    def rollout(**sleep: bool) -> float:
        changed = shared | {f"{name}.enable_sleep": value for name, value in sleep.items()}
        return memory.rollout_memory(model, changed, 79 * GIB).total

    assert rollout(ds=True) < rollout(ds=False)


def test_time_grows_with_the_response_and_shrinks_with_the_network(flags: dict[str, Any]) -> None:
    model = shape("Qwen3-30B-A3B-Base")
    batches = Batches.of(flags, 17_000)
    assert (batches.updates, batches.total) == (4, 16 * 24)

    def estimate(**rates: float) -> speed.Speed:
        return speed.estimate(
            model, flags, batches, speed.Rates(**rates), 79 * GIB, reads_old_log_probs=False
        )

    assert estimate(mean_response=4000).generate < estimate(mean_response=8000).generate
    assert estimate(network=400).gather == pytest.approx(estimate(network=40).gather / 10)
    usual = estimate()
    assert usual.batch == max(usual.generate, usual.train)  # asynchronous: at once
    assert usual.hours == pytest.approx(usual.batch * batches.total / 3600)


def test_a_config_is_found_by_the_models_name(tmp_path: Path) -> None:
    assert find_config("Qwen/Qwen3-0.6B", CONFIGS)["hidden_size"] == 1024
    assert find_config("nobody/nothing", None) is None
    with pytest.raises(ValueError, match=r"no config.json and no nothing.json there"):
        find_config("nobody/nothing", tmp_path)
    with pytest.raises(ValueError, match="no 'num_attention_heads'"):
        ModelShape.from_config({"hidden_size": 8})


def test_a_hub_that_cannot_be_read_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="cannot be read from the hub"):
        fetch("nobody/nothing")


def test_a_cluster_that_does_not_answer_is_said() -> None:
    with pytest.raises(ValueError, match="no Ray cluster answers at http"):
        Cluster.running("http://127.0.0.1:1")
    with pytest.raises(ValueError, match="at least 1"):
        Cluster.stated(0, 8)
