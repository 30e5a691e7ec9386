"""What is refused of recorded data, and what their flags stand for, before anything starts."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import numpy
import pytest

from vespo_openrlhf.bridge.flags import check, complete
from vespo_openrlhf.embedded.model import build_model
from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.recorded.schema import Origin, RecordedSample, tokenizer_digest
from vespo_openrlhf.recorded.writing import write_shard


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = build_tokenizer()
    build_model(tokenizer).config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


ORIGIN = Origin("run", "model", tokenizer_digest(build_tokenizer()))


@pytest.fixture
def offline(model: Path, tmp_path: Path, defaults: dict[str, object]) -> dict[str, Any]:
    """The flags of a run on a recorded group of two."""
    write_recording(tmp_path / "recording")
    flags = defaults | {
        "actor.model_name_or_path": str(model),
        "offline.data": [str(tmp_path / "recording")],
        "rollout.n_samples_per_prompt": 2,
        "data.input_key": "prompt",
        "data.label_key": "label",
        "data.prompt_dataset": None,
        "data.max_len": 64,
        "ckpt.path": str(tmp_path / "checkpoints"),
        "vllm.num_engines": None,
        "train.async_enable": False,
        "reward.remote_url": None,
    }
    return flags


def write_recording(folder: Path, origin: Origin = ORIGIN, **changes: Any) -> None:
    values = {
        "tokens": numpy.arange(4),
        "action_mask": numpy.arange(4) > 1,
        "log_probs": numpy.zeros(4),
        "reward": 1.0,
    } | changes
    samples = [RecordedSample(0, place, 2, "0:abc", **values) for place in range(2)]
    write_shard(folder / "000001-0000.parquet", samples, origin)


def test_a_recording_stands_for_engines_prompts_and_a_reward(
    offline: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (path,) = offline["offline.data"]
    monkeypatch.chdir(Path(path).parent)
    asked = {"offline.data": ["recording"], "offline.epochs": 4, "vllm.num_engines": 2}
    flags = offline | asked | {"data.prompt_dataset": "some/data"}
    notes = complete(flags)
    assert any("--vllm.num_engines 2 -> 0" in note for note in notes)
    assert any("--data.prompt_dataset is not read" in note for note in notes)
    assert flags["offline.data"] == [path]
    assert os.path.isabs(path)
    assert flags["train.num_episodes"] == 4
    check(flags)
    assert "2 recorded samples, 1 groups" in capsys.readouterr().out


def test_an_agent_that_is_not_called_is_told(offline: dict[str, Any]) -> None:
    flags = offline | {"train.agent_func_path": "agent.py"}
    assert any("--train.agent_func_path is not called" in note for note in complete(flags))
    flags = offline | {"train.agent_func_path": "agent.py", "eval.dataset": "some/data"}
    assert not any("--train.agent_func_path" in note for note in complete(flags))


def test_engines_stay_where_there_is_something_to_evaluate(offline: dict[str, Any]) -> None:
    flags = offline | {"eval.dataset": "some/data", "vllm.num_engines": 2}
    complete(flags)
    assert flags["vllm.num_engines"] == 2


@pytest.mark.parametrize("distilled", [{}, {"distill.teacher": "recorded"}])
def test_evaluations_need_a_reward_of_their_own(
    distilled: dict[str, Any], offline: dict[str, Any]
) -> None:
    """Neither what is recorded nor a teacher scores what they sample."""
    flags = offline | {"eval.dataset": "some/data", "vllm.num_engines": 1} | distilled
    complete(flags)
    with pytest.raises(ValueError, match="nothing gives a reward"):
        check(flags)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.async_enable": True}, r"--train\.async_enable with --offline\.data: nothing is"),
        ({"run.record": True, "run.dir": "x"}, r"--run\.record with .* on disk already"),
        ({"moe.routing_replay": "engine"}, r"--moe\.routing_replay with .* which experts"),
        ({"data.max_images_per_prompt": 2}, r"holds no images"),
        ({"vllm.enable_sleep": True}, r"--vllm\.enable_sleep with"),
        (
            {"train.colocate_all": True, "eval.dataset": "d", "vllm.num_engines": 1},
            r"--train\.colocate_all with .* GPUs of their own",
        ),
        ({"eval.dataset": "d", "vllm.num_engines": 0}, r"set --vllm\.num_engines to 1 or more"),
        ({"offline.behaviour": "initial"}, r"keeps log-probs in the run folder: set --run\.dir"),
        ({"offline.epochs": 0}, r"--offline\.epochs must be at least 1"),
        ({"rollout.temperature": 0.7}, r"at temperature 1, .* set it to 1"),
        ({"offline.data": ["x", "x"]}, r"names a recording twice; --offline\.epochs 2"),
    ],
)
def test_what_does_not_go_with_a_recording_is_refused(
    changes: dict[str, Any], message: str, offline: dict[str, Any]
) -> None:
    flags = offline | changes
    complete(flags)
    with pytest.raises(ValueError, match=message):
        check(flags)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"offline.epochs": 4}, r"--offline\.epochs has no effect without --offline\.data"),
        ({"offline.order": "shuffled"}, r"--offline\.order has no effect"),
        ({"run.record": True}, r"set --run\.dir"),
        (
            {"run.record": True, "run.dir": "x", "data.max_images_per_prompt": 1},
            r"it does not keep",
        ),
    ],
)
def test_what_has_no_effect_or_no_place_is_refused(
    changes: dict[str, Any], message: str, defaults: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=message):
        check(defaults | changes)


@pytest.mark.parametrize(
    ("changes", "accepted"),
    [
        ({}, False),
        ({"reward.model_name_or_path": "some/model"}, True),
        ({"distill.teacher": "recorded", "distill.direction": "forward"}, True),
        ({"distill.teacher": "recorded", "distill.coef": 0.5}, False),
    ],
)
def test_samples_without_a_reward_are_for_a_reward_model_or_a_teacher_alone(
    changes: dict[str, Any], accepted: bool, offline: dict[str, Any], tmp_path: Path
) -> None:
    write_recording(tmp_path / "recording", reward=None, failure="reward_model")
    flags = offline | {"reward.num_nodes": 1, "reward.num_gpus_per_node": 1} | changes
    complete(flags)
    if accepted:
        check(flags)
    else:
        with pytest.raises(ValueError, match="2 no_reward"):
            check(flags)


def test_the_weight_of_a_turn_goes_with_recorded_turns(offline: dict[str, Any]) -> None:
    flags = offline | {"agent.weight": "turn"}
    complete(flags)
    check(flags)


def test_tokens_of_another_tokenizer_are_refused(offline: dict[str, Any], tmp_path: Path) -> None:
    write_recording(tmp_path / "recording", dataclasses.replace(ORIGIN, tokenizer="another"))
    flags = dict(offline)
    complete(flags)
    with pytest.raises(ValueError, match=r"has tokens of another tokenizer .another, of model"):
        check(flags)


def test_where_nobody_knows_the_tokenizer_the_tokens_are_taken(
    offline: dict[str, Any], tmp_path: Path
) -> None:
    write_recording(tmp_path / "recording", dataclasses.replace(ORIGIN, tokenizer=""))
    flags = dict(offline)
    complete(flags)
    check(flags)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": numpy.full(4, 5000)}, "none can be trained on, .* 2 vocabulary"),
        ({"log_probs": None}, "none can be trained on, .* 2 no_log_probs"),
        ({"log_probs": numpy.full(4, numpy.nan)}, "2 not_finite"),
        ({"tokens": numpy.zeros(99), "action_mask": numpy.ones(99, bool)}, "2 lengths"),
    ],
)
def test_samples_of_no_use_are_refused_with_their_numbers(
    changes: dict[str, Any], message: str, offline: dict[str, Any], tmp_path: Path
) -> None:
    write_recording(tmp_path / "recording", **changes)
    flags = dict(offline)
    complete(flags)
    with pytest.raises(ValueError, match=f"--offline.data .*{message}"):
        check(flags)


def test_a_shard_that_is_cut_short_is_refused_by_its_flag(
    offline: dict[str, Any], tmp_path: Path
) -> None:
    (path,) = (tmp_path / "recording").iterdir()
    path.write_bytes(path.read_bytes()[:-20])
    flags = dict(offline)
    complete(flags)
    with pytest.raises(ValueError, match=r"--offline\.data .*parquet cannot be read: it is cut"):
        check(flags)
