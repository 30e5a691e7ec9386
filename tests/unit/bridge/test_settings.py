"""Flags made consistent, and what is refused, without OpenRLHF."""

import argparse
import os
from pathlib import Path

import pytest

from vespo_openrlhf import config, cpu
from vespo_openrlhf.bridge import settings
from vespo_openrlhf.bridge.loss import build_loss
from vespo_openrlhf.bridge.settings import resolve
from vespo_openrlhf.cpu import settings as cpu_settings
from vespo_openrlhf.reward.options import RewardOptions


def our_defaults() -> dict[str, object]:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    return vars(parser.parse_args([]))


# Our defaults, and OpenRLHF 0.11.2's as far as these settings read them.
DEFAULTS = our_defaults() | {
    "actor.model_name_or_path": "some/model",
    "reward.overlong_buffer_len": None,
    "reward.stop_properly_penalty_coef": None,
    "train.agent_func_path": None,
    "actor.policy_loss_type": "vespo",
    "actor.loss_agg_mode": "token-mean",
    "actor.eps_clip": 0.2,
    "actor.eps_clip_low_high": None,
    "actor.dual_clip": None,
    "algo.advantage.is_correction_level": "off",
    "algo.advantage.is_correction_mode": "mask",
    "algo.advantage.is_correction_gating": "ratio",
    "algo.advantage.is_correction_threshold": [0.5, 5.0],
    "rollout.batch_size": 1024,
    "rollout.n_samples_per_prompt": 1,
    "train.batch_size": 128,
    "train.max_epochs": 1,
    "train.partial_rollout_enable": False,
    "train.async_queue_size": 1,
    "rollout.vllm_generate_batch_size": None,
    "critic.freezing_steps": -1,
    "rollout.top_p": 1.0,
    "rollout.temperature": 1.0,
    "ckpt.load_enable": False,
    "ckpt.output_dir": "./ckpt",
    "ckpt.path": "./ckpt/checkpoints_ppo_ray",
    "logger.tensorboard_dir": None,
    "ds.param_dtype": "bf16",
    "ds.attn_implementation": "flash_attention_2",
    "ds.zero_stage": 2,
    "ds.adam_offload": False,
    "ds.packing_samples": False,
    "ds.ring_attn_size": 1,
    "ds.tensor_parallel_size": 1,
    "ds.load_in_4bit": False,
    "ds.use_liger_kernel": False,
    "ds.enable_sleep": False,
    "train.dynamic_batch_enable": False,
    "train.colocate_all": False,
    "train.colocate_actor_ref": False,
    "train.colocate_critic_reward": False,
    "train.async_enable": True,
    "vllm.enforce_eager": False,
    "vllm.sync_backend": "nccl",
    "vllm.tensor_parallel_size": 1,
    "vllm.enable_sleep": False,
    "vllm.num_engines": 2,
    "actor.num_nodes": 1,
    "actor.num_gpus_per_node": 1,
    "ref.num_nodes": 1,
    "ref.num_gpus_per_node": 8,
    "critic.num_nodes": 1,
    "critic.num_gpus_per_node": 8,
    "reward.num_nodes": 1,
    "reward.num_gpus_per_node": 8,
    "reward.remote_url": "reward.py",
    "algo.kl.init_coef": 0.0,
    "algo.advantage.estimator": "group_norm",
}


@pytest.fixture(autouse=True)
def no_reward_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """`resolve` sets the variable for good; here it goes with the test."""
    monkeypatch.setenv("REWARD_OPTIONS", "")


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "is_active", lambda: False)


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "is_active", lambda: True)


@pytest.mark.usefixtures("on_gpu")
def test_a_loss_on_rollout_log_probs_asks_the_engine_for_them_and_says_so() -> None:
    flags = dict(DEFAULTS)
    notes = resolve(flags)
    assert flags["algo.advantage.is_correction_level"] == "token"
    assert len(notes) == 1
    assert "--algo.advantage.is_correction_level off -> token" in notes[0]


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("name", ["ppo", "gspo"])
def test_openrlhfs_own_losses_are_left_alone_on_a_gpu(name: str) -> None:
    flags = DEFAULTS | {"actor.policy_loss_type": name, "vespo.anchor": "old"}
    before = dict(flags)
    assert resolve(flags) == []
    assert flags == before


@pytest.mark.usefixtures("on_gpu")
def test_a_run_folder_takes_what_openrlhf_writes(tmp_path) -> None:
    flags = DEFAULTS | {"run.dir": str(tmp_path), "ckpt.path": "/elsewhere"}
    resolve(flags)
    assert flags["ckpt.output_dir"] == str(tmp_path / "model")
    assert flags["logger.tensorboard_dir"] == str(tmp_path / "tensorboard")
    assert flags["ckpt.path"] == "/elsewhere"


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize(
    ("name", "changes", "clip"),
    [
        ("gspo", {}, [3e-4, 4e-4]),
        ("ppo", {}, [0.2, 0.28]),
        ("gmpo", {}, [0.4, 0.4]),
        ("gspo", {"actor.eps_clip_low_high": [0.1, 0.2]}, [0.1, 0.2]),
        ("ppo", {"actor.eps_clip": 0.1}, [0.1, 0.1]),
        ("vespo", {}, [0.2, 0.2]),
        ("ppo", {"vespo.anchor": "old"}, [0.2, 0.2]),
    ],
)
def test_the_clip_that_a_worker_gets_is_the_methods_own(
    name: str, changes: dict, clip: list
) -> None:
    """OpenRLHF fills the flag with its --actor.eps_clip between our settings and the workers."""
    flags = DEFAULTS | {"actor.policy_loss_type": name} | changes
    notes = resolve(flags)
    if flags["actor.eps_clip_low_high"] is None:
        flags["actor.eps_clip_low_high"] = [flags["actor.eps_clip"]] * 2
    assert flags["actor.eps_clip_low_high"] == clip
    assert any("eps_clip_low_high" in note for note in notes) == (not changes and name != "vespo")
    options = build_loss(flags).options
    if "clip_low" in options:
        assert [options["clip_low"], options["clip_high"]] == clip


@pytest.mark.usefixtures("on_cpu")
def test_every_change_for_the_cpu_is_announced() -> None:
    flags = dict(DEFAULTS)
    notes = "\n".join(resolve(flags))
    for flag, value in {"ds.param_dtype": "fp32", "ds.zero_stage": 0}.items():
        assert flags[flag] == value
        assert f"--{flag} {DEFAULTS[flag]} -> {value}" in notes
    assert "vllm.tensor_parallel_size" not in notes


@pytest.mark.parametrize(
    ("flag", "value"),
    [("ds.packing_samples", True), ("vllm.tensor_parallel_size", 2), ("ds.load_in_4bit", True)],
)
def test_what_a_cpu_cannot_do_is_refused(flag: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"--{flag} is not available on a CPU"):
        cpu_settings.adapt(DEFAULTS | {flag: value})


@pytest.mark.parametrize(
    ("changes", "gpus"),
    [
        ({}, 3),  # one trainer, two engines
        ({"algo.kl.init_coef": 0.01}, 11),
        ({"reward.remote_url": None}, 11),
        ({"algo.kl.init_coef": 0.01, "train.colocate_actor_ref": True}, 3),
        ({"algo.kl.init_coef": 0.01, "train.colocate_all": True, "train.async_enable": False}, 1),
        ({"algo.kl.init_coef": 0.01, "train.colocate_all": True}, 3),  # the models, not the engines
        ({"algo.advantage.estimator": "gae", "reward.remote_url": None}, 19),
        (
            {
                "algo.advantage.estimator": "gae",
                "reward.remote_url": None,
                "train.colocate_critic_reward": True,
            },
            11,
        ),
    ],
)
def test_logical_gpus_are_those_the_placement_groups_ask_for(changes: dict, gpus: int) -> None:
    assert cpu_settings.logical_gpus(DEFAULTS | changes) == gpus


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vespo.c1_pos": 0.5}, r"--vespo\.c1_pos must be at least 1"),
        ({"vespo.c2_neg": 0.0}, r"--vespo\.c2_neg must be positive"),
        ({"rollout.top_p": 0.9}, r"set --rollout\.top_p 1\.0"),
        ({"rollout.temperature": 0.0}, r"--rollout\.temperature is 0"),
        ({"algo.advantage.is_correction_level": "seq"}, "it would count twice"),
        ({"algo.advantage.is_correction_mode": "clip"}, "it would count twice"),
        ({"algo.advantage.is_correction_threshold": [0.1, 2.0]}, "would count twice"),
        (
            {"vespo.anchor": "old", "algo.advantage.is_correction_mode": "clip"},
            "a part of OpenRLHF's own loss",
        ),
        ({"actor.policy_loss_type": "vesop"}, "unknown policy loss 'vesop'. Known: vespo"),
        ({"vespo.loss_options": ["tau=1"]}, "vespo has no option 'tau'"),
        (
            {
                "actor.policy_loss_type": "gspo",
                "vespo.anchor": "old",
                "vespo.loss_options": ["tau_pos=1"],
            },
            r"--vespo\.loss_options are for the losses of this project",
        ),
    ],
)
def test_what_would_bias_the_weight_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings.check(DEFAULTS | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.async_queue_size": 4}, r"4 has no effect here: .* --lag\.max"),
        ({"rollout.vllm_generate_batch_size": 2048}, r"--rollout\.in_flight_per_engine"),
        ({"critic.freezing_steps": 10}, "trained from the first batch on"),
    ],
)
def test_flags_of_the_loops_that_do_not_run_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings.check(DEFAULTS | changes)


@pytest.mark.usefixtures("on_gpu")
def test_the_file_of_a_users_loss_is_found_from_every_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "def plain(inputs):\n    return -inputs.log_probs.mean(), {}\n"
    )
    flags = DEFAULTS | {"actor.policy_loss_type": "own.py:plain"}
    resolve(flags)
    monkeypatch.chdir("/")
    assert build_loss(flags).name == f"{tmp_path}/own.py:plain"


def test_an_ablation_of_vespo_is_refused_for_a_loss_that_ignores_it() -> None:
    flags = DEFAULTS | {"actor.policy_loss_type": "sapo", "vespo.length_normalisation": "sqrt"}
    with pytest.raises(ValueError, match="sapo knows nothing of it"):
        build_loss(flags)


def test_a_run_does_not_mix_with_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings.checks, "check_model", lambda path: None)
    monkeypatch.setattr(settings.checks, "check_prompts", lambda *args, **kwargs: None)
    flags = DEFAULTS | {
        "run.dir": str(tmp_path),
        "actor.model_name_or_path": "m",
        "reward.remote_url": None,
        "data.prompt_dataset": "d",
        "data.input_key": "prompt",
        "data.label_key": "label",
        "data.prompt_split": "train",
    }
    settings.check(dict(flags))
    (tmp_path / "metrics.jsonl").touch()
    with pytest.raises(ValueError, match=r"add --ckpt\.load_enable to go on"):
        settings.check(dict(flags))
    settings.check(flags | {"ckpt.load_enable": True})


@pytest.mark.usefixtures("on_gpu")
def test_the_rewards_options_go_to_the_environment_with_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    flags = DEFAULTS | {
        "reward.require_box": False,
        "reward.sources": ["gsm8k=my.py:score"],
        "reward.overlong_max": 8192,
        "actor.model_name_or_path": "model",
    }
    notes = "\n".join(resolve(flags))
    options = RewardOptions.from_env(os.environ)
    assert options == config.reward_options(flags)
    assert not options.require_box
    assert options.sources == {"gsm8k": f"{tmp_path}/my.py:score"}
    assert options.tokenizer == str(tmp_path / "model")
    assert "--reward.tokenizer -> model" in notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lag.max": -1}, r"--lag\.max is a number of updates"),
        ({"vllm.weight_tolerance": -0.1}, r"--vllm\.weight_tolerance must be 0 or more"),
        ({"vllm.weight_tolerance": float("nan")}, r"--vllm\.weight_tolerance must be 0 or more"),
        ({"reward.timeout_s": 0.0}, r"--reward\.timeout_s must be between"),
        (
            {"reward.sources": ["a=/no/where.py:f"]},
            r"--reward\.sources a=/no/where\.py:f: there is",
        ),
        (
            {"reward.truncation_penalty": 0.5, "reward.stop_properly_penalty_coef": 0.0},
            "would count twice",
        ),
        (
            {"reward.require_box": False, "reward.remote_url": "http://localhost:5000"},
            r"--reward\.require_box is an option of reward/math_reward\.py",
        ),
    ],
)
def test_reward_and_lag_options_that_cannot_hold_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings.check(DEFAULTS | changes)
