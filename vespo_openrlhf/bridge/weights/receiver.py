"""What vLLM's workers can do besides: receive weights. Run in vLLM's worker processes.

OpenRLHF's extension takes one parameter a call, answers before it has arrived, and keeps the
process groups that it has left. It also writes experts over what vLLM has made of them for their
kernel, packed or shuffled: nothing fails, and the layer is wrong. So they go the way of vLLM's own
updates: kept until a layer has them all, then loaded, made ready as at the start, and copied to
where the kernel and CUDA graphs read them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from openrlhf.trainer.ray.vllm_worker_wrap import WorkerWrap
from vllm.config import set_current_vllm_config
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.model_loader import reload

from vespo_openrlhf.bridge.weights import verify


class WeightReceiver(WorkerWrap):
    """Worker extension: vLLM makes it a base of its worker."""

    _model_update_group: Any
    _updating = False
    _verification: verify.Verification | None = None

    def init_process_group(self, *args: Any, **kwargs: Any) -> None:
        """As OpenRLHF's, after leaving the group of before.

        Raises:
            RuntimeError: an update was broken off. Of a layer that it left half done, the next one
                would make experts of both, and nothing would fail.
        """
        if self._updating:
            raise RuntimeError("an update of the weights was broken off: the engine is not whole")
        group, self._model_update_group = getattr(self, "_model_update_group", None), None
        if group is not None:
            group.destroy()
        super().init_process_group(*args, **kwargs)

    def verify_weights(self) -> str:
        """Until `finish_weights`, which says what it found, compare what comes with what is in
        place, and load nothing. Returns as `receive_weights`."""
        return _refusal(self._verify)

    def receive_weights(
        self,
        dtype: torch.dtype,
        shapes: Sequence[tuple[str, tuple[int, ...]]],
        sums: Sequence[int] | None = None,
    ) -> str:
        """Receive a bucket of parameters, one after another in one tensor, and load them.

        Args:
            dtype: of all of them.
            shapes: by name, in order.
            sums: `checksums` of them where they were sent, to be compared with theirs here.

        Returns:
            Why they cannot be loaded; empty where they are. vLLM would make a RuntimeError of any
            exception here, and this one is told apart from a broadcast that breaks.
        """
        sizes = [math.prod(shape) for _, shape in shapes]
        flat = torch.empty(sum(sizes), dtype=dtype, device=self.device)
        self._model_update_group.broadcast(flat, src=0, stream=torch.cuda.current_stream())
        torch.cuda.synchronize()  # it has arrived
        expected = self.model_config.dtype
        if dtype != expected:
            return f"weights arrive as {dtype}, the engine holds {expected}"
        parts = flat.split(sizes)
        if sums and (wrong := verify.broken([name for name, _ in shapes], parts, sums)):
            return wrong
        pairs = zip(shapes, parts, strict=True)
        weights = [(name, part.view(shape)) for (name, shape), part in pairs]
        return _refusal(lambda: self._load(weights))

    def update_weight_cuda_ipc(
        self,
        name: str,
        dtype: torch.dtype,
        shape: torch.Size,
        ipc_handles: Any = None,
        empty_cache: bool = False,
    ) -> None:
        """As OpenRLHF's, for a weight that lies in the trainer's memory until this returns."""
        model = self.model_runner.model
        load = model.load_weights
        # An expert's is kept until its layer has all, and any other in a verification: copied.
        kept = bool(self._verification or self._experts())
        model.load_weights = lambda weights: self._load(
            [(n, w.clone() if kept else w) for n, w in weights], load
        )
        try:
            super().update_weight_cuda_ipc(name, dtype, shape, ipc_handles, empty_cache)
        finally:
            del model.load_weights
        if empty_cache:  # which OpenRLHF's leaves undone
            torch.cuda.empty_cache()

    def finish_weights(self) -> str:
        """Put the experts in place that came since the last call. Nothing may be sampled before.

        Returns:
            As `receive_weights`; in a verification, what is not as it should be.
        """
        return _refusal(self._finish)

    def _verify(self) -> None:
        self._updating = True  # a layer of which half has come is not whole here, too
        with set_current_vllm_config(self.vllm_config):
            self._verification = verify.Verification(self.model_runner.model, self.model_config)

    def _load(
        self,
        weights: Sequence[tuple[str, torch.Tensor]],
        load: Callable[..., Any] | None = None,
    ) -> None:
        load = load or self.model_runner.model.load_weights
        with set_current_vllm_config(self.vllm_config):
            if self._verification:
                self._verification.load(load, weights)
                return
            if not self._updating:
                self._updating = True
                for layer in self._experts():
                    reload.initialize_layerwise_reload(layer)
            load(weights=weights)

    def _finish(self) -> str:
        verification, self._verification = self._verification, None
        found = ""
        with set_current_vllm_config(self.vllm_config):
            if verification:
                found = verification.finish()
            elif self._updating:
                for layer in self._experts():
                    reload.finalize_layerwise_reload(layer, self.model_config)
        self._updating = False
        return found

    def _experts(self) -> list[RoutedExperts]:
        layers = self.model_runner.model.modules()
        return [layer for layer in layers if isinstance(layer, RoutedExperts)]


def _refusal(work: Callable[[], str | None]) -> str:
    try:
        return work() or ""
    except Exception as error:
        return f"{type(error).__name__}: {error}"
