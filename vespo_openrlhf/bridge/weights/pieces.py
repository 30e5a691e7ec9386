"""A model as engines and files know it: whole weights by name, of what DeepSpeed trains in parts.

A parameter may be spread over ranks (ZeRO-3), and with LoRA a weight is several parameters: one
that stays as it was loaded, and an adapter that is trained. A piece is one such weight, under the
name of the model that was loaded. It is made when it is asked for, beside its parameters, which
nothing here changes: to merge into them and take the adapter off again would leave its rounding in
the base weights, a little more at every sync.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from peft import PeftModel
from peft.tuners import lora
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn

#: Of one bucket; a weight that is larger goes alone. Whoever takes one holds as much besides the
#: model, both sides of a sync included.
BUCKET_BYTES = 512 << 20


@dataclass(frozen=True, eq=False)
class Adapter:
    """What LoRA adds to a weight (out, in): scaling x up @ down.

    Attributes:
        down: (rank, in), peft's A.
        up: (out, rank), peft's B.
        transposed: the layer keeps its weight as (in, out), as GPT-2's do.
    """

    down: nn.Parameter
    up: nn.Parameter
    scaling: float
    transposed: bool


@dataclass(frozen=True, eq=False)
class Piece:
    """A weight by its name in the model that was loaded.

    Attributes:
        weight: the parameter itself, or with an adapter the one that it adds to.
    """

    name: str
    weight: nn.Parameter
    adapter: Adapter | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What it is made of: the weight, and with an adapter what is trained of it."""
        adapter = self.adapter
        return [self.weight, *((adapter.down, adapter.up) if adapter else ())]

    @property
    def trained(self) -> bool:
        """Whether an update may change it."""
        return any(parameter.requires_grad for parameter in self.parameters)

    @property
    def bytes(self) -> int:
        """Of the whole weight, also where ZeRO-3 has divided it; of this rank's part where tensor
        parallelism has."""
        elements: int = getattr(self.weight, "ds_numel", self.weight.numel())
        return elements * self.weight.element_size()

    @torch.no_grad()
    def tensor(self) -> Tensor:
        """The weight as it is now, in its own type: the parameter's memory, or a new tensor with
        the adapter merged in, in float32. All of `parameters` must be whole."""
        adapter, weight = self.adapter, self.weight.data
        if adapter is None:
            return weight
        up, down = adapter.up.data.float(), adapter.down.data.float()
        if adapter.transposed:
            up, down = down.T, up.T
        return torch.addmm(weight.float(), up, down, alpha=adapter.scaling).to(weight.dtype)


def pieces(model: nn.Module) -> list[Piece]:
    """The pieces of a model in the order of its parameters, shared ones once, under the first name.

    Args:
        model: plain, or peft's with LoRA on linear layers.

    Raises:
        ValueError: it is adapted in a way that cannot be merged, or that the engines cannot hold.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    first: dict[int, Piece] = {}
    for piece in _pieces(base, ""):
        other = first.setdefault(id(piece.weight), piece)
        if other is not piece and (other.adapter or piece.adapter):
            raise ValueError(
                f"--ds.lora.target_modules puts an adapter on one of {other.name} and {piece.name},"
                " which are one weight in this model, and in the engines: leave both out"
            )
    return list(first.values())


def _pieces(module: nn.Module, prefix: str) -> Iterator[Piece]:
    if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
        yield from _adapted(module, prefix)
        return
    for name, parameter in module.named_parameters(recurse=False):
        yield Piece(f"{prefix}{name}", parameter)
    for name, child in module.named_children():
        yield from _pieces(child, f"{prefix}{name}.")


def _adapted(layer: Any, prefix: str) -> Iterator[Piece]:
    name = getattr(layer, "active_adapters", ["default"])[0]
    # DoRA and its like are variants of the plain layer.
    kind = type(layer)
    if kind is not lora.Linear or layer.lora_variant or layer.lora_bias[name]:
        raise ValueError(
            f"the adapter on {prefix.removesuffix('.')}, peft's {kind.__name__}, is not plain LoRA "
            "on a linear layer, and cannot be merged into what the engines are given: leave that "
            "layer out of --ds.lora.target_modules"
        )
    adapter = Adapter(
        layer.lora_A[name].weight,
        layer.lora_B[name].weight,
        layer.scaling[name],
        layer.fan_in_fan_out,
    )
    for own, parameter in layer.get_base_layer().named_parameters():
        yield Piece(f"{prefix}{own}", parameter, adapter if own == "weight" else None)


def buckets(found: Iterable[Piece], limit: int) -> Iterator[list[Piece]]:
    """Runs of pieces of one type, of at most `limit` bytes, or of one piece."""
    bucket: list[Piece] = []
    size = 0
    for piece in found:
        if bucket and (size + piece.bytes > limit or piece.weight.dtype != bucket[0].weight.dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(piece)
        size += piece.bytes
    if bucket:
        yield bucket


def gathered(
    engine: Any, ds: Any, found: Iterable[Piece], limit: int = BUCKET_BYTES
) -> Iterator[list[Piece]]:
    """Bucket by bucket; its parameters are whole, on every rank, until the next is asked for.

    All ranks take part, and come to the end.

    Args:
        engine: DeepSpeed's, of the model that the pieces are of.
        ds: OpenRLHF's flags of that name.
        limit: as in `buckets`.
    """
    divided = ds.zero_stage == 3
    if ds.tensor_parallel_size > 1:
        limit = 0  # ranks whose parts differ in size would come to different buckets, and wait
    if divided:
        # After a forward pass alone parameters are still on their way to a backward pass that does
        # not come, and would be taken to be here.
        engine.optimizer.checkpoint_event_prologue()
    for bucket in buckets(found, limit):
        parameters = [parameter for piece in bucket for parameter in piece.parameters]
        with contextlib.ExitStack() as stack:
            if ds.tensor_parallel_size > 1:
                gather = deepspeed.module_inject.layers.GatherReplacedLayerParams
                for parameter in parameters:  # each knows how it was cut
                    stack.enter_context(gather([parameter], engine.module))
            elif divided:
                stack.enter_context(deepspeed.zero.GatheredParameters(parameters))
            yield bucket
    if divided:
        engine.optimizer.checkpoint_event_epilogue()
