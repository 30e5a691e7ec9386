"""Every rule and every estimate on one recipe."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vespo_openrlhf.bridge import roles
from vespo_openrlhf.bridge.rules.sizes import check_sizes
from vespo_openrlhf.check import batches, gpus, memory, paths, speed
from vespo_openrlhf.check.activations import micro_batch_tokens
from vespo_openrlhf.check.findings import Finding, error, note
from vespo_openrlhf.check.flags import check_model, check_options, reads_old_log_probs
from vespo_openrlhf.check.gpus import Cluster, Machines
from vespo_openrlhf.check.memory import GIB, Engine, Memory
from vespo_openrlhf.check.replay import Replay, check_replay
from vespo_openrlhf.check.resolve import Resolved
from vespo_openrlhf.check.shape import ModelShape, find_config
from vespo_openrlhf.check.speed import Rates, Speed


@dataclass(frozen=True)
class Judgement:
    """What is known of a recipe before it starts. Parts that could not be had are None."""

    findings: tuple[Finding, ...]
    shape: ModelShape | None = None
    cluster: Cluster | None = None
    batches: batches.Batches | None = None
    memory: tuple[Memory, ...] = ()
    host: Mapping[str, float] = field(default_factory=dict)
    engine: Engine | None = None
    speed: Speed | None = None
    replay: Replay | None = None

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]


def judge(
    resolved: Resolved, machines: Machines, rates: Rates, model_config: Path | None
) -> Judgement:
    """Apply every rule; a fault in one does not hide the next.

    Args:
        resolved: the recipe.
        machines: where it is to run.
        rates: for the estimate of time.
        model_config: where configs lie, of models that are not here; see `find_config`.
    """
    flags = resolved.flags
    found = [Finding("warning", f"OpenRLHF: {line}") for line in resolved.warnings]
    found += check_options(resolved.parsed)
    try:
        check_sizes(flags)
    except ValueError:
        return Judgement(tuple(found))
    found += paths.check_model_files(flags)
    found += paths.check_reward_file(flags)
    found += paths.check_run_folder(flags)
    prompts, prompt_findings = paths.load_prompts(flags)
    found += prompt_findings
    found += paths.check_evaluation(flags)
    found += paths.check_tokenizer(flags, prompts)
    config, shape, shape_findings = _shape(flags, model_config)
    found += shape_findings
    if config is not None:
        found += check_model(flags, config)
    found += batches.check_prompts(flags, prompts.rows)
    where, cluster_findings = _cluster(flags, machines)
    found += cluster_findings

    sizes = speeds = engine = replay = None
    memories: tuple[Memory, ...] = ()
    host: dict[str, float] = {}
    if batches.add_up(flags):
        sizes = batches.Batches.of(flags, prompts.rows)
    if shape is not None and flags["vllm.num_engines"]:
        gpu, reads_old = machines.gpu_memory * GIB, reads_old_log_probs(flags)
        engine = memory.engine_memory(shape, flags, gpu)
        memories = (
            memory.trainer_memory(shape, flags, gpu, reads_old_log_probs=reads_old),
            memory.rollout_memory(shape, flags, gpu),
        )
        host = memory.host_memory(shape, flags)
        found += _check_memory(flags, memories, engine)
        if sizes is not None:
            speeds = speed.estimate(shape, flags, sizes, rates, gpu, reads_old_log_probs=reads_old)
            replay = Replay.of(shape, flags, engine, speeds.mean_response)
    if replay is not None:
        node = machines.node_memory and machines.node_memory * GIB
        found += check_replay(replay, flags, host, node)
    return Judgement(tuple(found), shape, where, sizes, memories, host, engine, speeds, replay)


def _shape(
    flags: dict[str, Any], model_config: Path | None
) -> tuple[dict[str, Any] | None, ModelShape | None, list[Finding]]:
    model, config = flags["actor.model_name_or_path"], None
    if not model:
        return None, None, []
    try:
        config = find_config(model, model_config)
        if config is not None:
            return config, ModelShape.from_config(config), []
    except ValueError as refused:
        return config, None, [error(str(refused))]
    if os.path.isdir(model):
        return None, None, []
    return (
        None,
        None,
        [
            note(
                f"no config.json of {model} here, so memory and time are not estimated: --fetch "
                "gets it from the hub, --model-config FILE names one"
            )
        ],
    )


def _cluster(flags: dict[str, Any], machines: Machines) -> tuple[Cluster | None, list[Finding]]:
    try:
        where = machines.cluster(flags)
    except ValueError as refused:
        return None, [error(str(refused))]
    return where, list(gpus.check_cluster(flags, where))


def _check_memory(
    flags: dict[str, Any], memories: tuple[Memory, ...], engine: Engine
) -> list[Finding]:
    found = []
    trainer, rollout = memories
    if not trainer.fits:
        found.append(
            error(
                f"the trainer takes {trainer.total / GIB:.0f} GiB of a GPU's "
                f"{trainer.gpu / GIB:.0f}, most of it {trainer.largest()}",
                _less_memory(flags, trainer),
            )
        )
    share = flags["vllm.gpu_memory_utilization"]
    if engine.tokens < flags["data.max_len"]:
        found.append(
            error(
                f"an engine has room for {max(engine.tokens, 0)} tokens of KV cache beside "
                f"{engine.weights / GIB:.0f} GiB of weights per GPU, less than one sequence of "
                f"{flags['data.max_len']}",
                "raise --vllm.tensor_parallel_size or --vllm.gpu_memory_utilization "
                f"({share:g}), or lower --data.max_len",
            )
        )
    elif not rollout.fits:
        least = (rollout.total - rollout.gpu) / rollout.gpu
        found.append(
            error(
                f"while engines generate, a GPU is asked for {rollout.total / GIB:.0f} of its "
                f"{rollout.gpu / GIB:.0f} GiB, most of it {rollout.largest()}",
                f"set --vllm.gpu_memory_utilization {share - least - 0.005:.2f} or less",
            )
        )
    return found


def _less_memory(flags: dict[str, Any], trainer: Memory) -> str:
    """What to change, by what is large."""
    terms, advice = trainer.terms, []
    states = sum(terms.get(name, 0) for name in ("weights", "gradients", "optimizer"))
    activations = trainer.total - states
    if activations > trainer.gpu / 3:
        if not flags["actor.gradient_checkpointing_enable"]:
            advice.append("add --actor.gradient_checkpointing_enable")
        ring = flags["ds.ring_attn_size"]
        longest = flags["data.max_len"] // ring
        if micro_batch_tokens(flags, "train") <= longest:
            advice.append(f"split sequences over GPUs with --ds.ring_attn_size {2 * ring}")
        elif flags["train.dynamic_batch_enable"]:
            advice.append(f"set --train.max_tokens_per_gpu {longest}")
        else:
            advice.append("set --train.micro_batch_size 1")
    if states > trainer.gpu / 3:
        if flags["ds.zero_stage"] < 3 and roles.gpus(flags) > 1:
            advice.append("set --ds.zero_stage 3")
        if not flags["ds.adam_offload"]:
            advice.append("move the optimizer to the host with --ds.adam_offload")
        advice.append("give the trainer more GPUs")
    if "engine awake" in terms:
        advice.append("add --vllm.enable_sleep")
    return ", or ".join(advice) or "lower --data.max_len, or give the trainer more GPUs"
