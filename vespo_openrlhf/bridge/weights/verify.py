"""Whether a worker's live tensors are those of an engine started from the weights it is sent.

A checksum of what arrives would say no more than that it arrived: vLLM keeps some weights in a
layout of its own, and raw rows that are written over them raise nothing. So the weights are sent a
second time, and vLLM's own layerwise reload makes each layer afresh of them: tensors of the shapes
it began with, loaded, and made ready as at the start. Where the reload would copy the result to the
live tensors, it is compared with them, and thrown away: one layer of memory, and whatever of others
has come by then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.attention import is_deferred_attention_layer
from vllm.model_executor.model_loader import reload
from vllm.model_executor.model_loader.reload import layerwise, meta, utils

from vespo_openrlhf.bridge.weights.checksum import bits, checksums
from vespo_openrlhf.replaced import replaced

logger = logging.getLogger(__name__)

_NAMED = 3  # of the tensors that differ
_told: set[str] = set()


def broken(names: Sequence[str], parts: Sequence[Tensor], sums: Sequence[int]) -> str:
    """What to say of a bucket whose checksums are not those it was sent with; else nothing.

    Args:
        names: of the weights in it.
        parts: what has arrived of each.
        sums: `checksums` where they were sent.
    """
    pairs = zip(names, checksums(parts), sums, strict=True)
    wrong = [name for name, ours, theirs in pairs if ours != theirs]
    return f"{_listed(wrong)} did not arrive as the trainer sent it" if wrong else ""


class Verification:
    """One verification of a worker's model, which nothing may use until `finish`.

    Args:
        model: vLLM's, with the weights in place that will be sent again.
        model_config: vLLM's.
    """

    def __init__(self, model: nn.Module, model_config: Any) -> None:
        self._model, self._config = model, model_config
        self._names = {layer: name for name, layer in model.named_modules()}
        # These vLLM leaves in place and loads into, so they need a copy to compare with.
        self._copies = {
            layer: {
                name: tensor.clone()
                for name, tensor in utils.get_layer_tensors(layer).items()
                if name in meta.SKIP_TENSORS
            }
            for layer in self._names
        }
        self._compared: set[int] = set()
        self._wrong: list[str] = []
        self._unknown: list[str] = []
        reload.initialize_layerwise_reload(model)

    def load(self, load: Callable[..., Any], weights: Sequence[tuple[str, Tensor]]) -> None:
        """Take weights in, and compare the layers that have all of theirs.

        Args:
            load: the model's `load_weights`.
            weights: by name, in memory that is not used again.
        """
        with self._comparing():
            load(weights=weights)

    def finish(self) -> str:
        """Compare what is left; the model can be used again.

        Returns:
            Which tensors are not what they should be; empty where all are.
        """
        layers = [(layer, layerwise.get_layerwise_info(layer)) for layer in self._names]
        unsent: list[tuple[nn.Module, str, Tensor]] = []
        for layer, info in layers:
            if info.can_load() and not info.load_numel:
                layerwise._place_kernel_tensors(layer, info)
                info.reset()
                unsent += [(layer, *named) for named in layer.named_parameters(recurse=False)]
        with self._comparing():  # of those with padding that no weight fills
            reload.finalize_layerwise_reload(self._model, self._config)
        if not self._compared:
            return "no weight could be verified: vLLM's layerwise reload is not the one we know"
        for layer in self._names:
            if is_deferred_attention_layer(layer) and hasattr(layer, "kv_b_proj"):
                self._compare_absorbed(layer)
        for layer, name, tensor in unsent:  # but for what is tied to another, or made of it
            if id(tensor) not in self._compared:
                self._unknown.append(self._path(layer, name))
        self._unknown += self._made_elsewhere()
        if untold := [name for name in self._unknown if name not in _told]:
            _told.update(untold)
            logger.warning("not verified, as no weight was sent or vLLM hides it: %s", untold)
        if not self._wrong:
            return ""
        return (
            "the engine holds other weights than one would that is started from the trainer's: "
            f"{_listed(self._wrong)}. Training on what it samples would go wrong in silence: vLLM "
            "keeps this layer in a layout of its own, or ties or merges it as the trainer does not"
        )

    def _comparing(self) -> Any:
        # vLLM's reload always ends in the copy. Where these move, `finish` finds nothing compared.
        return replaced(
            layerwise,
            materialize_layer=self._materialize,
            _copy_and_restore_kernel_tensors=self._compare,
        )

    @staticmethod
    def _materialize(layer: nn.Module, info: Any) -> None:
        """As vLLM's, and NaN is what no weight has filled: padding, in which anything may be."""
        missing = {name for name, t in utils.get_layer_tensors(layer).items() if t.is_meta}
        meta.materialize_layer(layer, info)
        for name in missing:
            tensor = getattr(layer, name)
            if tensor.is_floating_point():
                tensor.data.fill_(torch.nan)

    def _compare(self, layer: nn.Module, info: Any) -> None:
        """In the place of the copy to the live tensors, which are put back."""
        parameters, buffers = info.kernel_tensors
        loaded = {name for name, _ in info.loaded_weights}
        live = parameters | {name: t for name, t in buffers.items() if name in loaded}
        for name, theirs in (live | self._copies[layer]).items():
            self._hold(layer, name, getattr(layer, name, None), theirs)
        self._compared.update(map(id, parameters.values()))
        layerwise._place_kernel_tensors(layer, info)

    def _compare_absorbed(self, layer: Any) -> None:
        """What MLA has made of `kv_b_proj`, which has been compared and is in place: views of it,
        which follow it, or copies, which do not, by the kernels that vLLM has chosen."""
        own = dict(layer.named_parameters(recurse=False))
        attributes = {name: t for name, t in vars(layer).items() if isinstance(t, Tensor)}
        before = {name: tensor.clone() for name, tensor in own.items()} | attributes
        layer.process_weights_after_loading(self._config.dtype)
        for name, tensor in before.items():
            self._hold(layer, name, getattr(layer, name), tensor)
        vars(layer).update(attributes)  # which CUDA graphs read
        self._compared.update(map(id, own.values()))

    def _hold(self, layer: nn.Module, name: str, fresh: Tensor | None, live: Tensor) -> None:
        if fresh is live:
            return
        path = self._path(layer, name)
        if fresh is None or fresh.shape != live.shape or fresh.dtype != live.dtype:
            self._wrong.append(f"{path} (of another shape or type)")
            return
        if torch.equal(bits(fresh), bits(live)):
            return
        differs = bits(fresh) != bits(live)
        if fresh.is_floating_point():
            empty = fresh.isnan() & differs
            differs &= ~empty
            if empty.any():
                self._unknown.append(path)
        if count := int(differs.sum()):
            self._wrong.append(f"{path} ({count} of {live.numel()} elements differ)")

    def _made_elsewhere(self) -> list[str]:
        """What is made of weights outside a layer's own tensors."""
        stored = {t.untyped_storage().data_ptr() for t in self._model.parameters()}
        found = []
        for layer, name in self._names.items():
            if not is_deferred_attention_layer(layer):
                if hasattr(layer, "process_weights_after_loading"):
                    found.append(name or type(layer).__name__)
            elif impl := getattr(layer, "impl", None):
                found += [
                    f"{name}.impl.{attribute}"
                    for attribute, value in vars(impl).items()
                    if isinstance(value, Tensor)
                    and value.untyped_storage().data_ptr() not in stored
                ]
        return found

    def _path(self, layer: nn.Module, name: str) -> str:
        return ".".join(filter(None, [self._names[layer], name]))


def _listed(found: Sequence[str]) -> str:
    more = len(found) - _NAMED
    return ", ".join(found[:_NAMED]) + (f" and {more} more" if more > 0 else "")
