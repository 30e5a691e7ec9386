"""What has to change upstream for the CPU: one function per module, applied after its import.

Every entry of `PATCHES` names the module and the assumption that does not hold on a CPU. A patch
changes that assumption and nothing else. The versions they were written for are in
requirements-cpu.txt; `tests/integration/test_cpu_patches.py` holds each against the installed one.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wrapt

from vespo_openrlhf.cpu import build_locks, flash_attention

# Between two looks at the lock of a build that is waited for.
_LOOK_SECONDS = 5.0


def _torch(torch: Any) -> None:
    """Some 40 lines of OpenRLHF ask torch.cuda for the device; it is the CPU."""
    cpu = torch.device("cpu")
    torch.cuda.current_device = lambda: cpu
    for name in ("set_device", "synchronize", "empty_cache", "current_stream"):
        setattr(torch.cuda, name, lambda *args, **kwargs: None)


def _openrlhf_utils(module: Any) -> None:
    """`--ds.param_dtype` knows bf16 and fp16 only; most CPUs emulate both, slowly."""
    import torch

    upstream = module.convert_to_torch_dtype

    def convert_to_torch_dtype(param_dtype: str) -> torch.dtype:
        return torch.float32 if param_dtype == "fp32" else upstream(param_dtype)

    module.convert_to_torch_dtype = convert_to_torch_dtype


def _openrlhf_distributed(module: Any) -> None:
    """Weights reach the engines over NCCL; without GPUs over gloo."""
    from vespo_openrlhf.cpu.weight_sync import GlooBroadcastGroup

    def stateless_init_process_group(
        master_address: str, master_port: int, rank: int, world_size: int, device: Any
    ) -> GlooBroadcastGroup:
        return GlooBroadcastGroup(master_address, master_port, rank, world_size)

    module.stateless_init_process_group = stateless_init_process_group


def _openrlhf_deepspeed(module: Any) -> None:
    """The device mesh and the moving average name "cuda" outright."""
    upstream_mesh = module.init_device_mesh
    module.init_device_mesh = lambda _device, *args, **kwargs: upstream_mesh("cpu", *args, **kwargs)

    strategy = module.DeepspeedStrategy
    upstream_average = strategy.moving_average

    def moving_average(self: Any, model: Any, model_ema: Any, beta: float, device: str) -> None:
        upstream_average(self, model, model_ema, beta, "cpu")

    strategy.moving_average = moving_average


def _openrlhf_replay_buffer(module: Any) -> None:
    """The buffer builds `cuda:{index}` for the device it loads samples to."""
    import torch

    buffer = module.NaiveReplayBuffer
    upstream = buffer.__init__

    @functools.wraps(upstream)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807
        answer = torch.cuda.current_device
        torch.cuda.current_device = lambda: 0  # "cuda:0" parses; the line below corrects it
        try:
            upstream(self, *args, **kwargs)
        finally:
            torch.cuda.current_device = answer
        self.target_device = torch.device("cpu")

    buffer.__init__ = __init__


def _openrlhf_engine(module: Any) -> None:
    """bfloat16 is written into the engines' arguments; an engine here is float32."""
    from vespo_openrlhf.cpu.float32_engine import float32_engine

    module.RolloutRayActor = float32_engine(module.RolloutRayActor)


def _openrlhf_worker(module: Any) -> None:
    """OpenRLHF's worker makes the tensor for a weight on "cuda". Ours has a receiver of its own;
    this is for stock OpenRLHF, to measure beside (scripts/bench_step.py)."""
    import torch

    def update_weight(
        self: Any, name: str, dtype: torch.dtype, shape: torch.Size, empty_cache: bool = False
    ) -> None:
        weight = torch.empty(shape, dtype=dtype)
        self._model_update_group.broadcast(weight, src=0)
        self.model_runner.model.load_weights(weights=[(name, weight)])

    module.WorkerWrap.update_weight = update_weight


def _deepspeed_engine(module: Any) -> None:
    """In float32 without ZeRO, DeepSpeed clips the gradient but forgets its norm (reports 0)."""
    from torch.nn.utils import clip_grad_norm_, get_total_norm

    def clip_fp32_gradients(self: Any) -> None:
        self._global_grad_norm = clip_grad_norm_(
            self.module.parameters(), max_norm=self.gradient_clipping()
        )

    engine = module.DeepSpeedEngine
    engine.clip_fp32_gradients = clip_fp32_gradients
    upstream_step = engine._take_model_step

    @functools.wraps(upstream_step)
    def _take_model_step(self: Any, *args: Any, **kwargs: Any) -> None:
        if not self.gradient_clipping() > 0.0:  # nothing will be clipped: measure here
            gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
            self._global_grad_norm = get_total_norm(gradients)
        upstream_step(self, *args, **kwargs)

    engine._take_model_step = _take_model_step


def _deepspeed_partition(module: Any) -> None:
    """Of several parameters that ZeRO-3 gathers at once, DeepSpeed waits for the last alone. On
    NCCL's one stream all have arrived by then; gloo's threads may still be writing the others."""

    def one_after_another(
        self: Any, param_list: list[Any], hierarchy: int = 0, quantize: bool = False
    ) -> None:
        self._allgather_params_sequential(param_list, hierarchy=hierarchy)

    module.Init._allgather_params_coalesced = one_after_another


def _vllm_linear(module: Any) -> None:
    """vLLM repacks linear weights for oneDNN and drops the originals, which updates need."""
    import torch

    def dispatch_cpu_unquantized_gemm(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = torch.nn.functional.linear

    module.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm


def _vllm_experts(module: Any) -> None:
    """vLLM packs experts for the CPU when it loads them, and not again when they are updated."""
    method = module.UnquantizedFusedMoEMethod
    upstream = method._setup_kernel

    @functools.wraps(upstream)
    def _setup_kernel(self: Any, layer: Any, w13: Any, w2: Any) -> None:
        updated = self.moe_kernel is not None
        upstream(self, layer, w13, w2)
        if updated and self.unquantized_backend == module.UnquantizedMoeBackend.CPU:
            self.moe_kernel.fused_experts.process_weights_after_loading(layer)

    method._setup_kernel = _setup_kernel


def _vllm_routed_experts(module: Any) -> None:
    """vLLM's CPU kernel chooses experts in Python, and does not tell anybody."""
    experts = module.CPUUnquantizedExperts
    upstream = experts._select_experts

    @functools.wraps(upstream)
    def _select_experts(self: Any, *args: Any, **kwargs: Any) -> Any:
        weights, ids = upstream(self, *args, **kwargs)
        if self.routing_replay_capture_fn is not None:
            self.routing_replay_capture_fn(ids)
        return weights, ids

    experts._select_experts = _select_experts
    experts.supports_routing_replay_capture = lambda self: True


def _vllm_seeds(module: Any) -> None:
    """A prompt that is read in parts is sampled after each, and vLLM turns the request's generator
    back then, which those of the CPU cannot: with a seed, the engine would die of it. So the
    generator is not there while what is sampled is discarded."""
    runner = module.CPUModelRunner
    sample, bookkeeping = runner._sample, runner._bookkeeping_sync

    @functools.wraps(sample)
    def _sample(self: Any, *args: Any, **kwargs: Any) -> Any:
        discarded = self.discard_request_mask.np[: self.input_batch.num_reqs].nonzero()[0]
        generators = self.input_batch.generators
        self._kept_generators = {i: generators.pop(i) for i in discarded if i in generators}
        return sample(self, *args, **kwargs)

    @functools.wraps(bookkeeping)
    def _bookkeeping_sync(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return bookkeeping(self, *args, **kwargs)
        finally:
            self.input_batch.generators.update(self._kept_generators)

    runner._sample, runner._bookkeeping_sync = _sample, _bookkeeping_sync


def _torch_build_lock(module: Any) -> None:
    """DeepSpeed compiles its optimizer where it is first needed, by torch's extension builder. That
    waits for another builder's lock as long as it is there: of one that was killed, for ever."""
    upstream = module.FileBaton.wait

    @functools.wraps(upstream)
    def wait(self: Any) -> None:
        watched = threading.Event()

        def watch() -> None:
            while not watched.wait(_LOOK_SECONDS):
                build_locks.remove_stale(Path(self.lock_file_path).parents[1])

        threading.Thread(target=watch, daemon=True).start()
        try:
            upstream(self)
        finally:
            watched.set()

    module.FileBaton.wait = wait


PATCHES: dict[str, Callable[[Any], None]] = {
    "torch": _torch,
    "torch.utils.file_baton": _torch_build_lock,
    "openrlhf.utils.utils": _openrlhf_utils,
    "openrlhf.utils.distributed_util": _openrlhf_distributed,
    "openrlhf.utils.deepspeed.deepspeed": _openrlhf_deepspeed,
    "openrlhf.trainer.ppo_utils.replay_buffer": _openrlhf_replay_buffer,
    "openrlhf.trainer.ray.vllm_engine": _openrlhf_engine,
    "openrlhf.trainer.ray.vllm_worker_wrap": _openrlhf_worker,
    "deepspeed.runtime.engine": _deepspeed_engine,
    "deepspeed.runtime.zero.partition_parameters": _deepspeed_partition,
    "vllm.model_executor.layers.utils": _vllm_linear,
    "vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method": _vllm_experts,
    "vllm.model_executor.layers.fused_moe.experts.cpu_moe": _vllm_routed_experts,
    "vllm.v1.worker.cpu_model_runner": _vllm_seeds,
}


@functools.cache
def register() -> None:
    """Arm every patch; one that is already too late is applied at once."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    flash_attention.provide()
    for module, patch in PATCHES.items():
        wrapt.register_post_import_hook(patch, module)
