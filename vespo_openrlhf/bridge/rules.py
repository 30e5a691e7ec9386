"""What cannot work, told from the flags or from the model's config.json, before anything starts.

One fault a rule. Each raises ValueError, which names the flag, what is wrong with it, and what to
write instead; `settings.FLAG_RULES` is the list of them all.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from vespo_openrlhf import config
from vespo_openrlhf.bridge.loss import uses_our_loss
from vespo_openrlhf.cpu.settings import roles
from vespo_openrlhf.losses.registry import option_defaults
from vespo_openrlhf.models import experts

Flags = Mapping[str, Any]

#: OpenRLHF's defaults of flags that default to None here, so that what nobody gave can follow the
#: loss (`settings.complete`): its 0.2, say, is a clip no paper's GSPO or GRPO was trained with.
UPSTREAM_DEFAULTS: dict[str, Any] = {
    "actor.eps_clip": 0.2,
    "actor.loss_agg_mode": "token-mean",
    "actor.dual_clip": None,
}
#: Estimators of OpenRLHF that compare a response with the others to its prompt.
GROUP_ESTIMATORS = ("rloo", "reinforce_baseline", "group_norm", "dr_grpo")

_SIZES = (
    *("rollout.batch_size", "rollout.n_samples_per_prompt", "rollout.micro_batch_size"),
    *("train.batch_size", "train.micro_batch_size", "train.num_episodes"),
    *("data.max_len", "data.max_samples", "vllm.tensor_parallel_size"),
    *("ds.ring_attn_size", "ds.tensor_parallel_size"),
)

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


def check_sizes(flags: Flags) -> None:
    """Numbers that everything else divides by; the first rule, for that reason."""
    names = [f"{role}.{of}" for role in roles(flags) for of in ("num_nodes", "num_gpus_per_node")]
    for name in (*_SIZES, *names):
        if flags[name] < 1:
            raise ValueError(f"--{name} is {flags[name]}: set it to at least 1")
    for name in ("ckpt.save_steps", "eval.steps"):
        if flags[name] < 1 and flags[name] != -1:
            raise ValueError(
                f"--{name} is {flags[name]}: set it to at least 1, in rollout batches, or to -1 "
                "for never"
            )


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


def check_adapters(flags: Flags) -> None:
    """LoRA: an adapter is merged into a weight of the engines' own, and trained as it samples."""
    rank, targets = flags["ds.lora.rank"], flags["ds.lora.target_modules"]
    if rank < 0:
        raise ValueError(f"--ds.lora.rank is {rank}: set it to at least 1, or to 0 for no LoRA")
    if not rank:
        for option, default in (("alpha", 16), ("target_modules", "all-linear"), ("dropout", 0)):
            if flags[f"ds.lora.{option}"] != default:
                raise ValueError(
                    f"--ds.lora.{option} {flags[f'ds.lora.{option}']} has no effect without "
                    "--ds.lora.rank: set it, as a rule to 32, or leave this flag out"
                )
        return
    named = [] if isinstance(targets, str) else [name.rpartition(".")[2] for name in targets]
    tied = [name for name in named if name in ("lm_head", "embed_tokens")]
    head = flags["ds.value_head_prefix"]
    critic = flags["algo.advantage.estimator"] == "gae"
    refused = {
        "ds.lora.target_modules": (
            not isinstance(targets, str) and not targets,
            "it names no module; leave the flag out, all linear layers are adapted",
        ),
        f"ds.lora.target_modules {' '.join(tied)}": (
            bool(tied),
            "embedding and output layer may be one weight, and are not adapted; leave them out",
        ),
        "ds.lora.target_modules without " + head: (
            critic and bool(named) and head not in named,
            f"the critic's new value head would stay as it was drawn; add {head}, or leave the "
            "flag out",
        ),
        "ds.lora.dropout": (
            flags["ds.lora.dropout"] != 0,
            "the policy that is trained would not be the one that samples, and the importance "
            "weight would measure the dropout; leave it out",
        ),
        "ds.tensor_parallel_size": (
            flags["ds.tensor_parallel_size"] > 1,
            "DeepSpeed would cut adapters as it cuts layers; leave it out, --ds.zero_stage 3 "
            "divides the weights",
        ),
        "train.enable_ema": (
            flags["train.enable_ema"],
            "OpenRLHF averages weights of a model that has no adapters; leave it out",
        ),
        "actor.freeze_visual_encoder": (
            flags["actor.freeze_visual_encoder"],
            "OpenRLHF would adapt its layers all the same; leave it out",
        ),
    }
    for flag, (given, reason) in refused.items():
        if given:
            raise ValueError(f"--{flag} does not go with --ds.lora.rank: {reason}")


def check_groups(flags: Flags) -> None:
    """An advantage within the group needs another response to compare with."""
    estimator = flags["algo.advantage.estimator"]
    if estimator in GROUP_ESTIMATORS and flags["rollout.n_samples_per_prompt"] < 2:
        raise ValueError(
            f"--algo.advantage.estimator {estimator} compares the responses to a prompt with one "
            "another, and with --rollout.n_samples_per_prompt 1 there is one: set it to 2 or more, "
            "or take --algo.advantage.estimator flash_reinforce"
        )


def ranks(flags: Flags, role: str = "actor") -> int:
    """Data-parallel ranks of a model of OpenRLHF's; ring attention's and tensor parallelism's
    copies take the same samples."""
    gpus: int = flags[f"{role}.num_nodes"] * flags[f"{role}.num_gpus_per_node"]
    return gpus // (flags["ds.ring_attn_size"] * flags["ds.tensor_parallel_size"])


def _split(flags: Flags) -> Iterator[tuple[str, int]]:
    """Every model whose GPUs split into ranks, and how many; `check_ranks` is for the others."""
    copies = flags["ds.ring_attn_size"] * flags["ds.tensor_parallel_size"]
    for role in roles(flags):
        gpus = flags[f"{role}.num_nodes"] * flags[f"{role}.num_gpus_per_node"]
        if gpus % copies == 0:
            yield role, gpus // copies


def check_ranks(flags: Flags) -> None:
    """The GPUs of a model split into groups that share a sequence."""
    copies = flags["ds.ring_attn_size"] * flags["ds.tensor_parallel_size"]
    whole = dict(_split(flags))
    for role in roles(flags):
        if role not in whole:
            gpus = flags[f"{role}.num_nodes"] * flags[f"{role}.num_gpus_per_node"]
            raise ValueError(
                f"{gpus} GPUs of --{role}.num_gpus_per_node do not split into groups of {copies} "
                f"(--ds.ring_attn_size x --ds.tensor_parallel_size): set "
                f"--{role}.num_gpus_per_node to a multiple of {copies}"
            )


def check_update(flags: Flags) -> None:
    """An update gives each rank as many whole micro-batches as every other: DeepSpeed asserts it,
    for models that are only read, too."""
    update, micro = flags["train.batch_size"], flags["train.micro_batch_size"]
    for role, number in _split(flags):
        dynamic = flags["train.dynamic_batch_enable"] and role in ("actor", "critic")
        each = 1 if dynamic else micro
        if update % (number * each):
            raise ValueError(
                f"--train.batch_size {update} does not split evenly over {number} data-parallel "
                f"ranks of the {role}{f' x {each} per micro-batch' if each > 1 else ''}: set "
                f"--train.batch_size to a multiple of {number * each}"
                + (", or a smaller --train.micro_batch_size" if each > 1 else "")
            )


def check_forward(flags: Flags) -> None:
    """A forward pass over a rollout batch gives each rank as many micro-batches as every other."""
    micro = flags["rollout.micro_batch_size"]
    responses = flags["rollout.batch_size"] * flags["rollout.n_samples_per_prompt"]
    for role, number in _split(flags):
        if responses // micro < number:
            raise ValueError(
                f"a rollout batch of {responses} responses is fewer than {number} data-parallel "
                f"ranks of the {role} x {micro} (--rollout.micro_batch_size): set "
                f"--rollout.micro_batch_size to at most {max(responses // number, 1)}, or make "
                "--rollout.batch_size larger"
            )
        each = 1 if flags["train.dynamic_batch_enable"] else micro
        if number > 1 and responses % (number * each):
            raise ValueError(
                f"a rollout batch of {responses} responses does not split evenly over {number} "
                f"data-parallel ranks of the {role} x {each} (--rollout.micro_batch_size): ranks "
                "would wait for one another for ever; make --rollout.batch_size x "
                f"--rollout.n_samples_per_prompt a multiple of {number * each}"
            )


def check_lengths(flags: Flags) -> None:
    """A prompt and a response fit together into what is read."""
    longest, response = flags["data.max_len"], flags["rollout.max_new_tokens"]
    if response is None:
        return
    if response < 1:
        raise ValueError(f"--rollout.max_new_tokens is {response}: set it to at least 1")
    if response >= longest:
        raise ValueError(
            f"--rollout.max_new_tokens {response} leaves no room for a prompt in --data.max_len "
            f"{longest}, which counts both: set --data.max_len {response + 1024} for prompts of "
            "up to 1,024 tokens"
        )


def check_places(flags: Flags) -> None:
    """Models that share GPUs are as many as these."""
    everything = flags["train.colocate_all"]
    if everything and not flags["train.async_enable"] and flags["vllm.num_engines"]:
        trainer = flags["actor.num_nodes"] * flags["actor.num_gpus_per_node"]
        parallel, engines = flags["vllm.tensor_parallel_size"], flags["vllm.num_engines"]
        if engines * parallel != trainer:
            raise ValueError(
                f"--train.colocate_all puts trainer and engines on the same GPUs, but the trainer "
                f"has {trainer} and {engines} engines x {parallel} have {engines * parallel}: set "
                f"--vllm.num_engines {max(trainer // parallel, 1)}"
            )
    pairs = (
        ("actor", "ref", everything or flags["train.colocate_actor_ref"], "ref" in roles(flags)),
        ("critic", "reward", flags["train.colocate_critic_reward"], "critic" in roles(flags)),
    )
    for one, other, shared, there in pairs:
        for of in ("num_nodes", "num_gpus_per_node"):
            if shared and there and flags[f"{one}.{of}"] != flags[f"{other}.{of}"]:
                raise ValueError(
                    f"--{one}.{of} {flags[f'{one}.{of}']} and --{other}.{of} "
                    f"{flags[f'{other}.{of}']} differ, and the two models share their GPUs: set "
                    f"--{other}.{of} {flags[f'{one}.{of}']}"
                )


def check_synchronous(flags: Flags) -> None:
    """Options that have a say only where generation and training overlap."""
    if flags["train.async_enable"]:
        return
    if flags["train.partial_rollout_enable"]:
        raise ValueError(
            "--train.partial_rollout_enable requires --train.async_enable: add it, or leave this "
            "flag out"
        )
    lag = config.lag_options(flags)
    samples = flags["rollout.batch_size"] * flags["rollout.n_samples_per_prompt"]
    least = lag.synchronous(max(samples // flags["train.batch_size"], 1)).max
    assert least is not None
    given = {
        "max": lag.max is not None and lag.max > least,
        "on_stale": lag.on_stale != "wait",
        "target_ess": lag.target_ess is not None,
    }
    for option, asked in given.items():
        if asked:
            raise ValueError(
                f"--lag.{option} {getattr(lag, option)} has no effect without "
                f"--train.async_enable: no token is then older than {least} updates; add that "
                "flag, or leave this one out"
            )


def check_kv(flags: Flags) -> None:
    """Where engines finish what they have before they take new weights, no KV cache outlives
    those that made it."""
    if flags["lag.kv"] == "keep" and not flags["train.partial_rollout_enable"]:
        raise ValueError(
            "--lag.kv keep has no effect without --train.partial_rollout_enable: no response is "
            "unfinished when an engine takes new weights; add that flag, or leave this one out"
        )


def check_target_ess(flags: Flags) -> None:
    """The working lag is steered by importance weights that the loss reports."""
    target = flags["lag.target_ess"]
    if target is not None and not uses_our_loss(flags):
        raise ValueError(
            f"--lag.target_ess {target:g} steers the lag by the importance weights' effective "
            f"sample size, and --actor.policy_loss_type {flags['actor.policy_loss_type']} reports "
            "none with --vespo.anchor old: leave one of the flags out"
        )


def check_own_loss(flags: Flags) -> None:
    """OpenRLHF's loss: its clip and its correction as it takes them, and one where it is needed."""
    if uses_our_loss(flags):
        return
    clip = flags["actor.dual_clip"]
    if clip is not None and not clip > 1:
        raise ValueError(f"--actor.dual_clip is {clip:g}: set it above 1")
    if flags["actor.loss_agg_mode"] == "seq-mean-token-sum":
        raise ValueError(
            "--actor.loss_agg_mode seq-mean-token-sum: OpenRLHF's own loss, which --vespo.anchor "
            "old asks for, has no such mode: leave the anchor out, or take token-mean or "
            "seq-mean-token-mean"
        )
    prefix = "algo.advantage.is_correction"
    level, mode, gating, threshold = (
        flags[f"{prefix}_{option}"] for option in ("level", "mode", "gating", "threshold")
    )
    if level == "off":
        if flags["train.async_enable"]:
            raise ValueError(
                f"--vespo.anchor old with --train.async_enable: OpenRLHF's own "
                f"{flags['actor.policy_loss_type']} starts from the trainer's recomputation, "
                "which knows nothing of the lag, and nothing corrects for it: add "
                f"--{prefix}_level token, or leave --vespo.anchor out"
            )
        given = {
            "mode": mode != "mask",
            "gating": gating != "ratio",
            "threshold": list(threshold) != [0.5, 5.0],
        }
        for option, asked in given.items():
            if asked:
                raise ValueError(
                    f"--{prefix}_{option} has no effect with --{prefix}_level off: set the level, "
                    "or leave it out"
                )
    elif mode == "clip" and (level == "seq" or gating != "ratio"):
        raise ValueError(
            f"--{prefix}_mode clip clamps the ratio of a token: it takes --{prefix}_level token "
            f"and --{prefix}_gating ratio"
        )
    elif gating != "ratio" and len(threshold) == 2 and threshold[0] > 0:
        raise ValueError(
            f"--{prefix}_gating {gating} is bounded from above alone: give --{prefix}_threshold "
            "one number"
        )


def check_loss_flags(flags: Flags) -> None:
    """A coefficient of one loss is not given to another in silence."""
    if not uses_our_loss(flags):
        return
    name = flags["actor.policy_loss_type"]
    try:
        # A user's own loss is given --vespo.loss_options alone.
        own = {} if ":" in name else option_defaults(name)
    except ValueError:  # for check_loss to say
        return
    given: dict[str, tuple[str, bool]] = {
        "actor.eps_clip": ("clip_low", _differs(flags, "actor.eps_clip")),
        "actor.eps_clip_low_high": ("clip_low", flags["actor.eps_clip_low_high"] is not None),
        "actor.dual_clip": ("dual_clip", _differs(flags, "actor.dual_clip")),
        "actor.loss_agg_mode": ("loss_agg_mode", _differs(flags, "actor.loss_agg_mode")),
        "vespo.anchor": ("anchor", flags["vespo.anchor"] != "rollout"),
    }
    kernel = {} if name == "vespo" else config.kernel_options(flags)
    for coefficient, default in option_defaults("vespo").items():
        if coefficient in kernel:
            given[f"vespo.{coefficient}"] = (coefficient, kernel[coefficient] != default)
    for flag, (option, asked) in given.items():
        if asked and option not in own:
            raise ValueError(
                f"--{flag} {flags[flag]} has no effect on --actor.policy_loss_type {name}: leave "
                "it out"
                + (", a loss of your own takes --vespo.loss_options" if ":" in name else "")
            )


def _differs(flags: Flags, flag: str) -> bool:
    """Whether it was given, and is not what OpenRLHF has without it."""
    return flags[flag] not in (None, UPSTREAM_DEFAULTS[flag])


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


def check_reward_given(flags: Flags) -> None:
    """Something scores the responses, and a file that does is there."""
    agent = flags["train.agent_func_path"]
    if agent:
        if not os.path.isfile(agent) or not agent.endswith(".py"):
            raise ValueError(f"--train.agent_func_path {agent}: there is no such file, *.py")
    elif not flags["reward.remote_url"] and not flags["reward.model_name_or_path"]:
        raise ValueError(
            "nothing gives a reward: set --reward.remote_url to reward/math_reward.py or a file "
            "of yours"
        )


def check_mixture(flags: Flags) -> None:
    """One probability for each part of the data."""
    shares, parts = flags["data.prompt_probs"], flags["data.prompt_dataset"]
    if shares is None or not parts:
        return
    try:
        values = [float(share) for share in shares.split(",")]
    except ValueError:
        values = []
    if len(values) != len(parts.split(",")) or abs(sum(values) - 1) > 1e-6:
        raise ValueError(
            f"--data.prompt_probs {shares}: give one number for each of the "
            f"{len(parts.split(','))} parts of --data.prompt_dataset, with commas, 1 in all"
        )


def check_positions(flags: Flags, model: Mapping[str, Any]) -> None:
    """vLLM does not start where a sequence may be longer than the model reads."""
    positions = model.get("max_position_embeddings") or 0
    scaling = model.get("rope_scaling") or model.get("rope_parameters") or {}
    kind = scaling.get("rope_type") or scaling.get("type")
    if "factor" in scaling and kind not in ("llama3", "longrope", "su"):
        return  # vLLM stretches them
    if 0 < positions < flags["data.max_len"]:
        raise ValueError(
            f"--data.max_len {flags['data.max_len']} is more than the {positions} positions of the "
            f"model, and vLLM will not start: set --data.max_len to at most {positions}"
        )


def check_heads(flags: Flags, model: Mapping[str, Any]) -> None:
    """Tensor parallelism splits attention by its heads."""
    parallel, heads = flags["vllm.tensor_parallel_size"], model.get("num_attention_heads") or 0
    if heads % parallel:
        raise ValueError(
            f"--vllm.tensor_parallel_size {parallel} does not divide the model's {heads} "
            "attention heads: use a power of two"
        )


def check_aux_loss(flags: Flags, model: Mapping[str, Any]) -> None:
    """The balancing loss is one of experts."""
    if flags["actor.aux_loss_coef"] and not experts(model):
        raise ValueError(
            f"--actor.aux_loss_coef {flags['actor.aux_loss_coef']:g} balances experts, and the "
            "model has none: leave the flag out"
        )


def check_adapted_experts(flags: Flags, model: Mapping[str, Any]) -> None:
    """peft adapts the experts of a mixture, and their router, in a way of its own."""
    targets = flags["ds.lora.target_modules"]
    mlp = {"gate", "gate_proj", "up_proj", "down_proj", "experts"}
    named = isinstance(targets, str) or mlp & {name.rpartition(".")[2] for name in targets}
    if flags["ds.lora.rank"] and experts(model) and named:
        raise ValueError(
            "--ds.lora.rank adapts the experts of this model, and what adapts them is not merged "
            "for the engines: adapt attention alone with --ds.lora.target_modules q_proj k_proj "
            "v_proj o_proj"
        )


#: By the flags and the model's config.json, its text part where it has several.
MODEL_RULES: tuple[Callable[[Flags, Mapping[str, Any]], None], ...] = (
    check_positions,
    check_heads,
    check_aux_loss,
    check_adapted_experts,
)
