"""Flags made consistent, and what is refused, without OpenRLHF."""

import argparse
import math
import os
from pathlib import Path

import pytest

from vespo_openrlhf import config, cpu
from vespo_openrlhf.bridge import flags as flags_module
from vespo_openrlhf.bridge import rules
from vespo_openrlhf.bridge.flags import check, complete, resolve
from vespo_openrlhf.bridge.loss import build_loss
from vespo_openrlhf.bridge.roles import logical_gpus
from vespo_openrlhf.bridge.rules.loss import UPSTREAM_DEFAULTS
from vespo_openrlhf.bridge.run.checkpoints import Checkpoints
from vespo_openrlhf.bridge.run.folder import RunFolder
from vespo_openrlhf.bridge.scheduler_config import scheduler_config
from vespo_openrlhf.cpu import flags as cpu_flags
from vespo_openrlhf.reward.options import RewardOptions
from vespo_openrlhf.scheduling import make_policy


def our_defaults() -> dict[str, object]:
    parser = argparse.ArgumentParser()
    config.add_flags(parser)
    return vars(parser.parse_args([]))


# Our defaults, and OpenRLHF 0.11.2's as far as these rules read them.
DEFAULTS = our_defaults() | {
    "actor.aux_loss_coef": 0,
    "algo.advantage.gamma": 1,
    "algo.advantage.lambd": 1,
    "algo.advantage.no_std_norm": False,
    "algo.dynamic_filtering_enable": False,
    "algo.dynamic_filtering_range": (0, 1),
    "algo.kl.target": None,
    "algo.kl.use_loss": False,
    "ckpt.save_steps": -1,
    "critic.model_name_or_path": None,
    "data.apply_chat_template": False,
    "data.disable_fast_tokenizer": False,
    "data.input_template": None,
    "data.max_len": 2048,
    "data.max_samples": int(1e8),
    "data.prompt_dataset": "some/data",
    "data.prompt_probs": None,
    "ds.lora.rank": 0,
    "ds.lora.alpha": 16,
    "ds.lora.target_modules": "all-linear",
    "ds.lora.dropout": 0,
    "ds.value_head_prefix": "score",
    "actor.freeze_visual_encoder": False,
    "eval.dataset": None,
    "eval.split": "train",
    "eval.steps": -1,
    "reward.model_name_or_path": None,
    "rollout.max_new_tokens": None,
    "rollout.max_tokens_per_gpu": None,
    "rollout.micro_batch_size": 1,
    "train.enable_ema": False,
    "train.full_determinism_enable": False,
    "train.max_tokens_per_gpu": 16192,
    "train.micro_batch_size": 1,
    "train.num_episodes": 1,
    "vllm.sync_with_ray": False,
    "actor.model_name_or_path": "some/model",
    "reward.overlong_buffer_len": None,
    "reward.stop_properly_penalty_coef": None,
    "train.agent_func_path": None,
    "actor.policy_loss_type": "vespo",
    **dict.fromkeys(UPSTREAM_DEFAULTS),
    "actor.eps_clip_low_high": None,
    "algo.advantage.is_correction_level": "off",
    "algo.advantage.is_correction_mode": "mask",
    "algo.advantage.is_correction_gating": "ratio",
    "algo.advantage.is_correction_threshold": [0.5, 5.0],
    "rollout.batch_size": 1024,
    "rollout.n_samples_per_prompt": 8,
    "train.batch_size": 128,
    "train.max_epochs": 1,
    "train.partial_rollout_enable": False,
    "train.async_queue_size": 1,
    "rollout.vllm_generate_batch_size": None,
    "critic.freezing_steps": -1,
    "rollout.top_p": 1.0,
    "rollout.temperature": 1.0,
    "ckpt.load_enable": False,
    "ckpt.disable_ds": False,
    "ckpt.output_dir": "./ckpt",
    "ckpt.path": "./ckpt/checkpoints_ppo_ray",
    "logger.tensorboard_dir": None,
    "ds.param_dtype": "bf16",
    "ds.attn_implementation": "flash_attention_2",
    "ds.zero_stage": 2,
    "ds.adam_offload": False,
    "ds.grad_accum_dtype": None,
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
    """Their flags, but for those of the loss itself where nobody gave them."""
    given = {"actor.eps_clip": 0.1, "actor.dual_clip": 2.0, "actor.loss_agg_mode": "token-mean"}
    flags = DEFAULTS | {"actor.policy_loss_type": name, "vespo.anchor": "old"} | given
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
        ("gspo", {"actor.eps_clip": 0.2}, [0.2, 0.2]),
        ("ppo", {"actor.eps_clip": 0.1}, [0.1, 0.1]),
        ("vespo", {}, [0.2, 0.2]),
    ],
)
@pytest.mark.parametrize("anchor", ["rollout", "old"])
def test_the_clip_that_a_worker_gets_is_the_methods_own(
    name: str, changes: dict, clip: list, anchor: str
) -> None:
    """OpenRLHF fills the flag with its --actor.eps_clip between our rules and the workers.

    With the anchor "old" the loss is OpenRLHF's own, and the paper's is still the paper's.
    """
    flags = DEFAULTS | {"actor.policy_loss_type": name, "vespo.anchor": anchor} | changes
    notes = resolve(flags)
    again = dict(flags)
    resolve(again)
    assert again == flags
    if flags["actor.eps_clip_low_high"] is None:
        flags["actor.eps_clip_low_high"] = [flags["actor.eps_clip"]] * 2
    assert flags["actor.eps_clip_low_high"] == clip
    assert any("eps_clip_low_high" in note for note in notes) == (not changes and name != "vespo")
    options = build_loss(flags).options
    if "clip_low" in options:
        assert [options["clip_low"], options["clip_high"]] == clip


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("anchor", ["rollout", "old"])
@pytest.mark.parametrize(
    ("name", "flag", "own", "given"),
    [
        ("sapo", "actor.loss_agg_mode", "seq-mean-token-mean", "token-mean"),
        ("vespo", "actor.loss_agg_mode", "token-mean", "seq-mean-token-sum"),
        ("ppo", "actor.loss_agg_mode", "token-mean", "seq-mean-token-mean"),
        ("ppo", "actor.dual_clip", 3.0, math.inf),
    ],
)
def test_what_is_not_given_is_what_the_loss_was_published_with(
    name: str, flag: str, own: object, given: object, anchor: str
) -> None:
    flags = DEFAULTS | {"actor.policy_loss_type": name, "vespo.anchor": anchor}
    notes = "".join(resolve(flags))
    option = flag.removeprefix("actor.")
    assert flags[flag] == build_loss(flags).options[option] == own
    assert (f"--{flag} -> {own}" in notes) == (own != UPSTREAM_DEFAULTS[flag])
    flags = DEFAULTS | {"actor.policy_loss_type": name, "vespo.anchor": anchor, flag: given}
    assert f"--{flag}" not in "".join(resolve(flags))
    assert flags[flag] == build_loss(flags).options[option] == given


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
    [("ds.packing_samples", True), ("vllm.tensor_parallel_size", 2)],
)
def test_what_a_cpu_cannot_do_is_refused(flag: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"--{flag} is not available on a CPU"):
        cpu_flags.adapt(DEFAULTS | {flag: value})


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
    assert logical_gpus(DEFAULTS | changes) == gpus


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vespo.c1_pos": -0.5}, r"--vespo\.c1_pos must be at least 0"),
        ({"vespo.c2_neg": 0.0}, r"--vespo\.c2_neg must be above 0"),
        ({"rollout.top_p": 0.9}, r"set --rollout\.top_p 1\.0"),
        ({"rollout.temperature": 0.0}, r"--rollout\.temperature is 0"),
        ({"algo.advantage.is_correction_level": "seq"}, "it would count twice"),
        ({"algo.advantage.is_correction_mode": "clip"}, "it would count twice"),
        ({"algo.advantage.is_correction_threshold": [0.1, 2.0]}, "would count twice"),
        (
            {"vespo.anchor": "old", "algo.advantage.is_correction_mode": "clip"},
            r"a part of OpenRLHF's own loss.*--vespo\.loss_options tis_cap=2",
        ),
        ({"vespo.loss_options": ["tis_cap=2"]}, "already contains it, whole"),
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
        check(DEFAULTS | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.async_queue_size": 4}, r"4 has no effect here: .* --lag\.max"),
        ({"rollout.vllm_generate_batch_size": 2048}, r"--rollout\.in_flight_per_engine"),
        ({"critic.freezing_steps": 10}, "trained from the first batch on"),
        (
            {
                "nodes.rollout": ["group=rollout"],
                "train.colocate_all": True,
                "train.async_enable": False,
            },
            r"no effect here: .* set --nodes\.trainer",
        ),
    ],
)
def test_flags_of_the_loops_that_do_not_run_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(DEFAULTS | changes)


def test_all_linear_may_be_given_by_its_name() -> None:
    flags = DEFAULTS | {"ds.lora.rank": 4, "ds.lora.target_modules": ["all-linear"]}
    complete(flags)
    assert flags["ds.lora.target_modules"] == "all-linear"  # a list peft would look up as a module


EVERY_RANK = {"actor.num_gpus_per_node": 4}
KL = {"algo.kl.init_coef": 0.01}
OWN_PPO = {
    "actor.policy_loss_type": "ppo",
    "vespo.anchor": "old",
    "algo.advantage.is_correction_level": "token",
}
SYNCHRONOUS = {"train.async_enable": False}
LORA = {"ds.lora.rank": 4}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.num_episodes": 0}, r"--train\.num_episodes is 0: set it to at least 1"),
        ({"ckpt.save_steps": 0}, r"--ckpt\.save_steps is 0: .* or to -1 for never"),
        (
            {"ds.grad_accum_dtype": "fp32"},
            r"--ds\.grad_accum_dtype fp32 has no effect with --ds\.zero_stage 2: .*zero_stage 3",
        ),
        ({"ds.grad_accum_dtype": "tf32"}, r"tf32: set it to one of fp32, bf16, fp16"),
        ({"eval.steps": 0}, r"--eval\.steps is 0: .* or to -1 for never"),
        # what this trainer or its engines cannot do
        ({"ds.load_in_4bit": True}, r"--ds\.load_in_4bit does not work here: .*--ds\.lora\.rank"),
        ({"vllm.sync_with_ray": True}, r"--vllm\.sync_with_ray does not work here"),
        ({"train.full_determinism_enable": True}, r"full_determinism_enable does not work here"),
        (
            {"train.enable_ema": True, "ckpt.load_enable": True},
            r"--train\.enable_ema with --ckpt\.load_enable",
        ),
        # adapters
        ({"ds.lora.rank": -1}, r"--ds\.lora\.rank is -1: set it to at least 1"),
        ({"ds.lora.alpha": 32}, r"--ds\.lora\.alpha 32 has no effect without --ds\.lora\.rank"),
        (LORA | {"ds.lora.target_modules": []}, r"target_modules does not .* names no module"),
        (
            LORA | {"ds.lora.target_modules": ["q_proj", "lm_head"]},
            r"target_modules lm_head does not go with .* leave them out",
        ),
        (
            LORA | {"ds.lora.target_modules": ["q_proj"], "algo.advantage.estimator": "gae"},
            r"value head would stay as it was drawn; add score",
        ),
        (LORA | {"ds.lora.dropout": 0.1}, r"--ds\.lora\.dropout does not go with .* leave it out"),
        (LORA | {"ds.tensor_parallel_size": 2}, r"tensor_parallel_size does not go with"),
        (LORA | {"train.enable_ema": True}, r"--train\.enable_ema does not go with"),
        (LORA | {"actor.freeze_visual_encoder": True}, r"freeze_visual_encoder does not go with"),
        # sizes that do not divide
        ({"train.micro_batch_size": 6}, r"1 data-parallel ranks of the actor x 6 .* of 6"),
        (EVERY_RANK | {"train.micro_batch_size": 64}, r"4 data-parallel ranks .* of 256"),
        ({"actor.num_gpus_per_node": 3}, r"evenly over 3 data-parallel ranks of the actor: set"),
        (KL | {"ref.num_gpus_per_node": 3}, "over 3 data-parallel ranks of the ref"),
        ({"actor.num_gpus_per_node": 6, "ds.ring_attn_size": 4}, "6 GPUs of .* groups of 4"),
        (
            EVERY_RANK | {"rollout.micro_batch_size": 24},
            r"8192 responses does not split evenly over 4 .* a multiple of 96",
        ),
        ({"rollout.micro_batch_size": 9000}, r"8192 responses is fewer than .* at most 8192"),
        ({"vllm.num_engines": 0}, r"set --vllm\.num_engines to 1 or more"),
        (
            {"rollout.n_samples_per_prompt": 1},
            r"group_norm compares the responses .* set it to 2 or more, or take .*flash_reinforce",
        ),
        # lengths
        ({"rollout.max_new_tokens": 2048}, r"leaves no room for a prompt .* --data\.max_len 3072"),
        ({"rollout.max_new_tokens": 0}, r"--rollout\.max_new_tokens is 0"),
        # places
        (
            SYNCHRONOUS | {"train.colocate_all": True},
            r"the trainer has 1 and 2 engines x 1 have 2: set --vllm\.num_engines 1",
        ),
        (
            KL | {"train.colocate_actor_ref": True},
            r"--actor\.num_gpus_per_node 1 and --ref\.num_gpus_per_node 8 differ",
        ),
        # the lag, where nothing lags, and where nothing tells or corrects it
        (SYNCHRONOUS | {"lag.max": 99}, r"--lag\.max 99 has no effect without --train\.async"),
        (SYNCHRONOUS | {"lag.on_stale": "drop"}, r"--lag\.on_stale drop has no effect without"),
        (SYNCHRONOUS | {"lag.target_ess": 0.5}, r"--lag\.target_ess 0\.5 has no effect without"),
        (SYNCHRONOUS | {"train.partial_rollout_enable": True}, r"requires --train\.async_enable"),
        (SYNCHRONOUS | {"lag.policy": "fifo"}, r"--lag\.policy fifo has no effect without"),
        ({"lag.policy": "newest"}, r"unknown lag\.policy 'newest'\. Known: bounded, fifo; or your"),
        ({"lag.policy": "nowhere.py:Mine"}, r"lag\.policy .*nowhere\.py"),
        ({"lag.kv": "keep"}, r"--lag\.kv keep has no effect without --train\.partial_rollout"),
        (OWN_PPO | {"lag.target_ess": 0.5}, r"--actor\.policy_loss_type ppo reports none"),
        (
            OWN_PPO | {"algo.advantage.is_correction_level": "off"},
            r"--vespo\.anchor old with --train\.async_enable: .*is_correction_level token",
        ),
        # OpenRLHF's own loss, which would say so in its worker
        (OWN_PPO | {"actor.dual_clip": 0.5}, r"--actor\.dual_clip is 0\.5: set it above 1"),
        (
            OWN_PPO | {"actor.loss_agg_mode": "seq-mean-token-sum"},
            r"--actor\.loss_agg_mode seq-mean-token-sum: OpenRLHF's own loss",
        ),
        (
            OWN_PPO
            | {
                "algo.advantage.is_correction_mode": "clip",
                "algo.advantage.is_correction_level": "seq",
            },
            "clamps the ratio of a token",
        ),
        (
            OWN_PPO | {"algo.advantage.is_correction_gating": "tv"},
            r"is_correction_threshold one number",
        ),
        (
            OWN_PPO
            | SYNCHRONOUS
            | {
                "algo.advantage.is_correction_level": "off",
                "algo.advantage.is_correction_mode": "clip",
            },
            r"is_correction_mode has no effect with --algo\.advantage\.is_correction_level off",
        ),
        # what nothing reads
        ({"actor.eps_clip": 0.1}, r"--actor\.eps_clip 0\.1 has no effect on .* vespo"),
        ({"actor.dual_clip": 3.0}, r"--actor\.dual_clip 3\.0 has no effect on .* vespo"),
        (
            {"actor.policy_loss_type": "gspo", "actor.loss_agg_mode": "seq-mean-token-sum"},
            r"--actor\.loss_agg_mode seq-mean-token-sum has no effect on .* gspo",
        ),
        (
            {"actor.policy_loss_type": "sapo", "vespo.c1_pos": 1.5},
            r"--vespo\.c1_pos 1\.5 has no effect on --actor\.policy_loss_type sapo",
        ),
        ({"critic.model_name_or_path": "m"}, "group_norm has no critic"),
        ({"reward.model_name_or_path": "m"}, r"--reward\.remote_url or .* scores the responses"),
        ({"algo.advantage.gamma": 0.9}, "group_norm does not discount"),
        ({"algo.advantage.lambd": 0.9}, "group_norm has no critic"),
        ({"algo.advantage.no_std_norm": True}, r"--algo\.advantage\.estimator dr_grpo"),
        ({"algo.kl.use_loss": True}, "there is no reference model"),
        ({"algo.kl.target": 0.1}, "there is no reference model"),
        ({"algo.dynamic_filtering_range": [0.1, 0.9]}, "add --algo.dynamic_filtering_enable"),
        ({"rollout.max_tokens_per_gpu": 8192}, r"add --train\.dynamic_batch_enable"),
        ({"train.max_tokens_per_gpu": 8192}, r"add --train\.dynamic_batch_enable"),
        (
            {"data.input_template": "Q: {}", "data.apply_chat_template": True},
            "the chat template takes its place",
        ),
        ({"eval.dataset": "problems.jsonl"}, r"nothing is evaluated; set --eval\.steps"),
        ({"eval.steps": 8}, r"name problems with --eval\.dataset"),
        # what the run is fed with
        ({"reward.remote_url": None}, r"nothing gives a reward: set --reward\.remote_url"),
        ({"train.agent_func_path": "/no/agent.py"}, "there is no such file"),
        ({"data.prompt_probs": "0.5,0.5"}, "one number for each of the 1 parts"),
        ({"data.prompt_dataset": "a,b", "data.prompt_probs": "0.5,0.6"}, "1 in all"),
    ],
)
def test_what_would_fail_late_or_have_no_effect_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(DEFAULTS | changes)


def test_the_defaults_are_refused_by_no_rule() -> None:
    for rule in rules.FLAG_RULES:
        rule(dict(DEFAULTS))
    synchronous = DEFAULTS | SYNCHRONOUS | {"lag.max": 63, "lag.sync_every": 64}  # as it is anyway
    for rule in rules.FLAG_RULES:
        rule(dict(synchronous))


def test_any_users_loss_may_steer_the_lag(tmp_path: Path) -> None:
    """Its log W is worked out where it reports none."""
    (tmp_path / "own.py").write_text(
        "def plain(inputs):\n    return -inputs.log_probs.mean(), {}\n"
    )
    own = {"actor.policy_loss_type": f"{tmp_path}/own.py:plain"}
    rules.lag.check_target_ess(DEFAULTS | {"lag.target_ess": 0.5} | own)


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({}, {"max_position_embeddings": 1024}, r"set --data\.max_len to at most 1024"),
        (
            {},
            {"max_position_embeddings": 1024, "rope_scaling": {"type": "llama3", "factor": 8.0}},
            "1024 positions",
        ),
        (
            {"vllm.tensor_parallel_size": 3},
            {"num_attention_heads": 32},
            "does not divide the model's 32 attention heads",
        ),
        ({"actor.aux_loss_coef": 0.01}, {"num_experts": 0}, "the model has none"),
        ({"ds.lora.rank": 4}, {"num_experts": 8}, r"--ds\.lora\.target_modules q_proj k_proj"),
        (
            {"ds.lora.rank": 4, "ds.lora.target_modules": ["q_proj", "gate_proj"]},
            {"num_experts": 8},
            "adapts the experts",
        ),
    ],
)
def test_what_a_model_cannot_do_is_refused(
    changes: dict, model: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flags_module.models, "check_model", lambda path: model)
    with pytest.raises(ValueError, match=message):
        check(DEFAULTS | changes)


MIXTURE = {"model_type": "qwen3_moe", "num_experts": 8, "num_hidden_layers": 2}


@pytest.mark.parametrize(
    ("changes", "model", "message"),
    [
        ({}, {"model_type": "qwen3"}, "the model has no experts"),
        ({"ds.ring_attn_size": 2}, MIXTURE, "--ds.ring_attn_size 2 does not go with"),
        ({"ds.tensor_parallel_size": 2}, MIXTURE, "--ds.tensor_parallel_size 2 does not go with"),
        ({"ds.deepcompile": True}, MIXTURE, "--ds.deepcompile True does not go with"),
        ({}, MIXTURE | {"model_type": "phimoe", "num_local_experts": 8}, "PhimoeTopKRouter, does"),
        # As the text part of a model of images may be.
        ({}, {"num_experts": 8}, "transformers builds no model of type '' by itself"),
        (
            {},
            {"model_type": "ernie4_5_vl_moe_text", "moe_num_experts": 8},
            "transformers builds no model of type 'ernie4_5_vl_moe_text' by itself",
        ),
    ],
)
def test_what_does_not_go_with_routing_replay_is_refused(
    changes: dict, model: dict, message: str
) -> None:
    flags = DEFAULTS | {"moe.routing_replay": "engine", "ds.deepcompile": False}
    rules.moe.check_routing_replay(flags, MIXTURE)
    with pytest.raises(ValueError, match=message) as caught:
        rules.moe.check_routing_replay(flags | changes, model)
    assert "leave the flag out" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_model_can_do_passes() -> None:
    for model in (
        {},
        {"max_position_embeddings": 2048, "num_attention_heads": 32, "num_experts": 8},
        {"max_position_embeddings": 1024, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    ):
        for rule in rules.MODEL_RULES:
            rule(DEFAULTS | {"actor.aux_loss_coef": 0.01 * bool(model.get("num_experts"))}, model)


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


@pytest.mark.usefixtures("on_gpu")
def test_the_file_of_a_users_policy_is_found_from_every_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(
        "from vespo_openrlhf.scheduling.policies.fifo import Fifo\n\nclass Mine(Fifo):\n    pass\n"
    )
    flags = DEFAULTS | {"lag.policy": "own.py:Mine"}
    resolve(flags)
    monkeypatch.chdir("/")
    config = scheduler_config(flags)
    assert config.lag.policy == f"{tmp_path}/own.py:Mine"
    assert type(make_policy(config)).__name__ == "Mine"


def test_an_ablation_of_vespo_is_refused_for_a_loss_that_ignores_it() -> None:
    flags = DEFAULTS | {"actor.policy_loss_type": "sapo", "vespo.length_normalisation": "sqrt"}
    with pytest.raises(ValueError, match="sapo knows nothing of it"):
        build_loss(flags)


def test_a_run_does_not_mix_with_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags_module.models, "check_model", lambda path: {})
    monkeypatch.setattr(flags_module.checks, "check_prompts", lambda *args, **kwargs: None)
    flags = DEFAULTS | {
        "run.dir": str(tmp_path),
        "actor.model_name_or_path": "m",
        "reward.remote_url": "http://localhost:5000",
        "data.prompt_dataset": "d",
        "data.input_key": "prompt",
        "data.label_key": "label",
        "data.prompt_split": "train",
    }
    flags["ckpt.path"] = str(tmp_path / "checkpoints")
    again = {"ckpt.load_enable": True}
    check(dict(flags))
    (tmp_path / "metrics.jsonl").touch()
    # There is nothing to go on from: that must not be the advice.
    with pytest.raises(ValueError, match=r"without a checkpoint .*choose another folder") as none:
        check(dict(flags))
    assert "starts anew here, and the old records go to superseded/" in str(none.value)
    check(flags | again)
    with Checkpoints(tmp_path / "checkpoints").saving("global_step8"):
        (tmp_path / "checkpoints" / "_actor" / "global_step8").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"add --ckpt\.load_enable to go on .* from global_step8"):
        check(dict(flags))
    check(flags | again)
    RunFolder(tmp_path).finish(1)
    with pytest.raises(ValueError, match="a run already: finished; choose another folder"):
        check(dict(flags))
    check(flags | again)
    # Without the run folder, the checkpoints are still another's.
    alone = flags | {"run.dir": None}
    check(dict(alone))
    with pytest.raises(ValueError, match=r"--ckpt\.path .* the newest global_step8: add"):
        check(alone | {"ckpt.save_steps": 4})


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
    assert options == config.read(RewardOptions, flags)
    assert not options.require_box
    assert options.sources == {"gsm8k": f"{tmp_path}/my.py:score"}
    assert options.tokenizer == str(tmp_path / "model")
    assert "--reward.tokenizer -> model" in notes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lag.max": -1}, r"--lag\.max must be at least 0"),
        ({"vllm.weight_tolerance": -0.1}, r"--vllm\.weight_tolerance must be at least 0"),
        ({"vllm.weight_tolerance": float("nan")}, r"--vllm\.weight_tolerance must be at least 0"),
        ({"reward.timeout_s": 0.0}, r"--reward\.timeout_s must be above 0 and at most 600"),
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
        check(DEFAULTS | changes)
