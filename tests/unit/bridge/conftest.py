"""Groups as the scheduler hands them over, with rollouts as an engine makes them."""

import argparse
from collections.abc import Callable, Sequence

import pytest

import vespo_openrlhf.bridge  # noqa: F401  (the CPU stack, before any test imports openrlhf)
from vespo_openrlhf import config
from vespo_openrlhf.bridge.rules.loss import UPSTREAM_DEFAULTS
from vespo_openrlhf.scheduling import Group, Prompt


@pytest.fixture
def make_group() -> Callable[..., Group]:
    """A factory of complete groups. Sample i of the ticket t has t * 10 + i + 1 as first token.

    `rewards`: per sample; None for a sample without a verdict. `verdicts`: what the engine said of
    it where that is not the reward: "lost" for no rollout at all, None or NaN for one without a
    usable verdict. `oldest`: version of every sample's first token.
    """
    from vespo_openrlhf.bridge.samples.response import to_experience
    from vespo_openrlhf.bridge.wire import Rollout

    def rollout(first_token: int, verdict: float | None, response: int) -> Rollout:
        tokens = [first_token, *range(100, 101 + response)]
        result = {
            "observation_tokens": tokens,
            "action_ranges": [(2, len(tokens))],
            "rollout_log_probs": [0.0, 0.0] + [-0.5] * response,
            "prompt": "a prompt",
            "label": "a label",
            "reward": verdict,
            "scores": verdict,
            "extra_logs": {} if verdict is None else {"well_formed": 1.0},
        }
        return Rollout(to_experience(result, 64), (f"request-{first_token}",))

    def make(
        ticket: int,
        rewards: Sequence[float | None],
        verdicts: Sequence[object] | None = None,
        oldest: int = 0,
    ) -> Group:
        prompt = Prompt(0, ticket, f"p{ticket}")
        group = Group(ticket, prompt, len(rewards), "engine-0", oldest, 7, True, 0.0)
        for sample, reward in enumerate(rewards):
            verdict = verdicts[sample] if verdicts else ("lost" if reward is None else reward)
            length = 2 + (3 * ticket + 5 * sample) % 7
            payload = None
            if verdict != "lost":
                payload = rollout(ticket * 10 + sample + 1, verdict, length)
            group.generate(sample, ((oldest, 1), (oldest + 1, length)), oldest + 1, payload, 0.0)
            group.settle(sample, reward)
        return group

    return make


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
    "data.max_images_per_prompt": 0,
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
    "ds.deepcompile": False,
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


@pytest.fixture
def defaults() -> dict[str, object]:
    """Every flag that the rules read, by its dotted name, as it is where nobody gives it."""
    return dict(DEFAULTS)
