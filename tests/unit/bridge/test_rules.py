"""What is refused before anything starts: by the flags alone, and by the model."""

from pathlib import Path

import pytest

from vespo_openrlhf.bridge import flags as flags_module
from vespo_openrlhf.bridge import rules
from vespo_openrlhf.bridge.flags import check
from vespo_openrlhf.bridge.run.checkpoints import Checkpoints
from vespo_openrlhf.bridge.run.folder import RunFolder


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
def test_what_would_bias_the_weight_is_refused(
    changes: dict, message: str, defaults: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=message):
        check(defaults | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"agent.weight": "turn"},
            r"no effect here: .* name one with --train\.agent_func",
        ),
        ({"agent.max_turns": 3}, r"3 has no effect here: without an agent"),
        ({"agent.tool_timeout": 5.0}, r"5\.0 has no effect here: .* --rollout\.reward_timeout"),
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
def test_flags_of_the_loops_that_do_not_run_are_refused(
    changes: dict, message: str, defaults: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=message):
        check(defaults | changes)


EVERY_RANK = {"actor.num_gpus_per_node": 4}
KL = {"algo.kl.init_coef": 0.01}
OWN_PPO = {
    "actor.policy_loss_type": "ppo",
    "vespo.anchor": "old",
    "algo.advantage.is_correction_level": "token",
}
AGENT = "vespo_openrlhf.agents.feedback:FeedbackAgent"
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
            OWN_PPO | {"agent.weight": "turn", "train.agent_func_path": AGENT},
            r"--agent\.weight turn: OpenRLHF's own loss, .* knows no turns",
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
        (
            {"actor.policy_loss_type": "topr", "vespo.shape": "pessimistic"},
            r"--vespo\.shape pessimistic has no effect on --actor\.policy_loss_type topr",
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
def test_what_would_fail_late_or_have_no_effect_is_refused(
    changes: dict, message: str, defaults: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=message):
        check(defaults | changes)


@pytest.mark.parametrize("changes", [{}, {"agent.weight": "turn", "train.agent_func_path": AGENT}])
def test_the_defaults_and_turns_of_an_agent_are_refused_by_no_rule(
    changes: dict, defaults: dict[str, object]
) -> None:
    defaults |= changes
    for rule in rules.FLAG_RULES:
        rule(dict(defaults))
    synchronous = defaults | SYNCHRONOUS | {"lag.max": 63, "lag.sync_every": 64}  # as it is anyway
    for rule in rules.FLAG_RULES:
        rule(dict(synchronous))


def test_any_users_loss_may_steer_the_lag(tmp_path: Path, defaults: dict[str, object]) -> None:
    """Its log W is worked out where it reports none."""
    (tmp_path / "own.py").write_text(
        "def plain(inputs):\n    return -inputs.log_probs.mean(), {}\n"
    )
    own = {"actor.policy_loss_type": f"{tmp_path}/own.py:plain"}
    rules.lag.check_target_ess(defaults | {"lag.target_ess": 0.5} | own)


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
    changes: dict,
    model: dict,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    defaults: dict[str, object],
) -> None:
    monkeypatch.setattr(flags_module.models, "check_model", lambda path: model)
    with pytest.raises(ValueError, match=message):
        check(defaults | changes)


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
    changes: dict, model: dict, message: str, defaults: dict[str, object]
) -> None:
    flags = defaults | {"moe.routing_replay": "engine", "ds.deepcompile": False}
    rules.moe.check_routing_replay(flags, MIXTURE)
    with pytest.raises(ValueError, match=message) as caught:
        rules.moe.check_routing_replay(flags | changes, model)
    assert "leave the flag out" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_a_model_can_do_passes(defaults: dict[str, object]) -> None:
    for model in (
        {},
        {"max_position_embeddings": 2048, "num_attention_heads": 32, "num_experts": 8},
        {"max_position_embeddings": 1024, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
    ):
        for rule in rules.MODEL_RULES:
            rule(defaults | {"actor.aux_loss_coef": 0.01 * bool(model.get("num_experts"))}, model)


def test_a_run_does_not_mix_with_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defaults: dict[str, object]
) -> None:
    monkeypatch.setattr(flags_module.models, "check_model", lambda path: {})
    monkeypatch.setattr(flags_module.checks, "check_prompts", lambda *args, **kwargs: None)
    flags = defaults | {
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
def test_reward_and_lag_options_that_cannot_hold_are_refused(
    changes: dict, message: str, defaults: dict[str, object]
) -> None:
    with pytest.raises(ValueError, match=message):
        check(defaults | changes)
