"""What OpenRLHF has a flag for and this trainer cannot do, or nothing reads."""

from __future__ import annotations

from typing import Any

from vespo_openrlhf.agents.options import AgentOptions
from vespo_openrlhf.bridge.roles import Flags, roles

# flag -> (value that means "off", why it cannot be had and what to do).
_UNSUPPORTED: dict[str, tuple[Any, str]] = {
    "ds.load_in_4bit": (
        False,
        "the engines take whole weights, and those that are packed in 4 bits would have to be "
        "unpacked and rounded for them at every sync: leave the flag out (--ds.lora.rank, "
        "--ds.adam_offload and --ds.zero_stage 3 save memory)",
    ),
    "vllm.sync_with_ray": (
        False,
        "an engine that is started again could not join that group: leave the flag out, weights "
        "then go over --vllm.sync_backend",
    ),
    "train.full_determinism_enable": (
        False,
        "it puts vLLM's core into the engine's own process, where a failure cannot be told or "
        "mended: leave the flag out; --train.seed seeds data, model and engines",
    ),
}


def check_unsupported(flags: Flags) -> None:
    """What OpenRLHF can do and this trainer, or its engines, cannot."""
    for flag, (off, instead) in _UNSUPPORTED.items():
        if flags[flag] != off:
            raise ValueError(f"--{flag} does not work here: {instead}")


def check_accumulation(flags: Flags) -> None:
    """What gradients of micro-batches are added up in. DeepSpeed reads it with ZeRO-3 alone:
    ZeRO-2 keeps adding in the weights' type (`get_all_grad_tensors` of its 0.19.6), in silence."""
    dtype, known = flags["ds.grad_accum_dtype"], ("fp32", "bf16", "fp16")
    if dtype is None or dtype == flags["ds.param_dtype"]:
        return
    if dtype not in known:
        raise ValueError(f"--ds.grad_accum_dtype is {dtype}: set it to one of {', '.join(known)}")
    if flags["ds.zero_stage"] != 3:
        raise ValueError(
            f"--ds.grad_accum_dtype {dtype} has no effect with --ds.zero_stage "
            f"{flags['ds.zero_stage']}: gradients are then added up in --ds.param_dtype "
            f"{flags['ds.param_dtype']}; set --ds.zero_stage 3, or leave the flag out"
        )


def check_ema(flags: Flags) -> None:
    """The moving average is in no checkpoint."""
    if flags["train.enable_ema"] and flags["ckpt.load_enable"]:
        raise ValueError(
            "--train.enable_ema with --ckpt.load_enable: the moving average is in no checkpoint, "
            "and a resumed run would average from the first weights on again; leave one of them out"
        )


def check_effect(flags: Flags) -> None:
    """A flag that nothing reads is not passed over in silence."""
    estimator = flags["algo.advantage.estimator"]
    critic, dynamic = estimator == "gae", flags["train.dynamic_batch_enable"]
    reference, evaluated = flags["algo.kl.init_coef"] > 0, flags["eval.dataset"] is not None
    without_effect = {
        "train.async_queue_size": (
            flags["train.async_queue_size"] != 1,
            "no queue of batches is between engines and trainer; bound the lag with --lag.max",
        ),
        "rollout.vllm_generate_batch_size": (
            flags["rollout.vllm_generate_batch_size"] not in (None, flags["rollout.batch_size"]),
            "groups are generated one by one; set --rollout.in_flight_per_engine",
        ),
        "critic.freezing_steps": (
            flags["critic.freezing_steps"] != -1,
            "the policy is trained from the first batch on, and its version counts its updates; "
            "leave the flag out",
        ),
        "critic.model_name_or_path": (
            flags["critic.model_name_or_path"] is not None and not critic,
            f"--algo.advantage.estimator {estimator} has no critic; take gae, or leave it out",
        ),
        "reward.model_name_or_path": (
            flags["reward.model_name_or_path"] is not None and "reward" not in roles(flags),
            "--reward.remote_url or --train.agent_func_path scores the responses; leave one out",
        ),
        "algo.advantage.gamma": (
            flags["algo.advantage.gamma"] != 1 and estimator not in ("gae", "reinforce"),
            f"{estimator} does not discount; leave the flag out",
        ),
        "algo.advantage.lambd": (
            flags["algo.advantage.lambd"] != 1 and not critic,
            f"{estimator} has no critic; leave the flag out",
        ),
        "algo.advantage.no_std_norm": (
            flags["algo.advantage.no_std_norm"]
            and estimator not in ("gae", "reinforce", "reinforce_baseline"),
            f"{estimator} does not normalise over the batch; for a group's mean without its "
            "standard deviation take --algo.advantage.estimator dr_grpo",
        ),
        "algo.kl.use_loss": (
            flags["algo.kl.use_loss"] and not reference,
            "there is no reference model; set --algo.kl.init_coef above 0, or leave it out",
        ),
        "algo.kl.target": (
            flags["algo.kl.target"] is not None and not reference,
            "there is no reference model; set --algo.kl.init_coef above 0, or leave it out",
        ),
        "algo.dynamic_filtering_range": (
            list(flags["algo.dynamic_filtering_range"]) != [0, 1]
            and not flags["algo.dynamic_filtering_enable"],
            "nothing is filtered; add --algo.dynamic_filtering_enable",
        ),
        "rollout.max_tokens_per_gpu": (
            flags["rollout.max_tokens_per_gpu"] is not None and not dynamic,
            "batches are counted in samples; add --train.dynamic_batch_enable",
        ),
        "train.max_tokens_per_gpu": (
            flags["train.max_tokens_per_gpu"] != 16192 and not dynamic,
            "batches are counted in samples; add --train.dynamic_batch_enable",
        ),
        "data.input_template": (
            flags["data.input_template"] is not None and flags["data.apply_chat_template"],
            "the chat template takes its place; leave one of the two out",
        ),
        "eval.dataset": (
            evaluated and flags["eval.steps"] == -1,
            "nothing is evaluated; set --eval.steps, in rollout batches",
        ),
        "eval.steps": (
            flags["eval.steps"] != -1 and not evaluated,
            "there is nothing to evaluate; name problems with --eval.dataset",
        ),
        "agent.weight": (
            flags["agent.weight"] == "turn"
            and not (flags["train.agent_func_path"] or flags["offline.data"]),
            "without an agent a response is one turn; name one with --train.agent_func_path, or "
            "leave it out",
        ),
        "agent.max_turns": (
            flags["agent.max_turns"] is not None and not flags["train.agent_func_path"],
            "without an agent a response is one turn; leave the flag out",
        ),
        "agent.tool_timeout": (
            flags["agent.tool_timeout"] != AgentOptions.tool_timeout
            and not flags["train.agent_func_path"],
            "there is no agent; a reward's limit is --rollout.reward_timeout",
        ),
        "nodes.rollout": (
            flags["nodes.rollout"]
            and flags["train.colocate_all"]
            and not flags["train.async_enable"],
            "the engines share the trainer's GPUs; set --nodes.trainer",
        ),
    }
    for flag, (given, instead) in without_effect.items():
        if given:
            raise ValueError(f"--{flag} {flags[flag]} has no effect here: {instead}")
