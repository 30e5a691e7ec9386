"""A mixture's router that takes the experts of somebody else's choice: the rollout engine's.

Engine and trainer round differently, so of two experts that are nearly level each may take another
one, and the importance weight then measures that. Replayed, the trainer's token goes through the
experts that it went through when it was sampled (routing replay with the engine's choice, R3,
arXiv 2510.11370). The gate is trained as before: only which of its scores are taken is given.

A router's own forward runs, and of all that it does only the answer of its top-k is another one; so
softmax before or after, a bias, a scale and normalised scores are each family's own.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_TOP_K = (torch.topk, Tensor.topk)
_LAYER = re.compile(r"\blayers\.(\d+)\.")
_TRIAL_TOKENS = 4


def find_routers(model: nn.Module) -> dict[int, nn.Module]:
    """The routers of a transformers model by the number of their layer, counted as the engine does:
    layers without experts count, too.

    Raises:
        ValueError: it has none, one that belongs to no layer, or two in a layer.
    """
    routers = {}
    for name, module in model.named_modules():
        parent = model.get_submodule(name.rpartition(".")[0])
        if type(module).__name__.endswith("Router") and hasattr(parent, "experts"):
            layer = _LAYER.search(name)
            if layer is None:
                raise ValueError(f"the router {name} ({type(module).__name__}) is in no layer")
            if int(layer[1]) in routers:
                raise ValueError(f"layer {layer[1]} has two routers ({type(module).__name__})")
            routers[int(layer[1])] = module
    if not routers:
        raise ValueError(
            "no layer holds a router beside its experts (a class named ...Router, as in Qwen3-MoE)"
        )
    return routers


def check_routers(model: nn.Module, experts: int) -> None:
    """Try a copy of one router of each class on a few tokens; the model may be on the meta device.

    Raises:
        ValueError: one does not take experts of somebody else's choice; with its class.
    """
    for router in {type(router): router for router in find_routers(model).values()}.values():
        try:
            _try(router, experts)
        except Exception as error:
            raise ValueError(
                f"its router, {type(router).__name__}, does not take experts of the engine's "
                f"choice ({error})"
            ) from error


@torch.no_grad()
def _try(router: nn.Module, experts: int) -> None:
    tried = copy.deepcopy(router).to_empty(device="cpu").float()
    generator = torch.Generator().manual_seed(0)
    (matrix, *_) = (weight for weight in tried.parameters() if weight.dim() == 2)
    width = matrix.shape[1]
    for weight in (*tried.parameters(), *tried.buffers()):
        if weight.is_floating_point():
            weight.normal_(std=width**-0.5, generator=generator)  # scores of about 1
        else:
            weight.zero_()
    hidden = torch.randn(_TRIAL_TOKENS, width, generator=generator)
    # Some are given their bias, one number an expert.
    _, *others = inspect.signature(tried.forward).parameters.values()
    given = [torch.zeros(experts) for other in others if other.default is inspect.Parameter.empty]
    with _TopK(experts) as natural:
        answer = tried(hidden, *given)
    if len(natural.chosen) != 1:
        raise ValueError(f"it takes the top of {experts} scores {len(natural.chosen)} times")
    (chosen,) = natural.chosen
    wanted = (chosen + 1) % experts
    with _TopK(experts, wanted):
        replayed = tried(hidden, *given)
    with _TopK(experts, chosen):
        same = tried(hidden, *given)
    if not all(torch.equal(a, b) for a, b in zip(answer, same, strict=True)):
        raise ValueError("given its own choice, it answers something else")
    if not any(part.shape == wanted.shape and torch.equal(part, wanted) for part in replayed):
        raise ValueError("it does not return the experts that it takes")
    scores = [part for part in replayed if part.is_floating_point() and part.shape == wanted.shape]
    if not all(part.all() for part in scores):
        raise ValueError("of experts outside the groups of its own choice it makes nothing")


class _TopK(TorchFunctionMode):
    """Sees every top-k over as many scores as there are experts, and answers it.

    Args:
        experts: how many.
        ids: (N, k) to answer with; a negative one leaves the router its own choice. None: all do.

    Attributes:
        chosen: (N, k) by call: the router's own.
    """

    def __init__(self, experts: int, ids: Tensor | None = None) -> None:
        self._experts, self._ids = experts, ids
        self.chosen: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func not in _TOP_K:
            return result
        scores = args[0] if args else (kwargs or {})["input"]
        if scores.dim() != 2 or scores.shape[1] != self._experts:
            return result  # of groups, as a rule
        own = result.indices
        self.chosen.append(own)
        if self._ids is None:
            return result
        assert own.shape == self._ids.shape, (own.shape, self._ids.shape)
        taken = torch.where(self._ids >= 0, self._ids.to(own.dtype), own)
        # From all the scores, so that their gradient goes to those that are taken.
        return torch.return_types.topk((scores.gather(-1, taken), taken))


class RoutingReplay:
    """The routers of a model, which can be given the experts to take.

    Args:
        model: transformers', as `check_routers` has passed it.
        experts: of each layer that has any.
    """

    def __init__(self, model: nn.Module, experts: int) -> None:
        self._experts = experts
        self._routers = find_routers(model)
        self._ids: Tensor | None = None  # (N, layers, k), N as the model sees its tokens
        self._weights: Tensor | None = None
        self._sample: Tensor
        self._differing: Tensor
        self._uncounted: set[int] = set()
        for layer, router in self._routers.items():
            router.forward = functools.partial(self._route, layer, router.forward)

    @contextlib.contextmanager
    def armed(
        self,
        routed: Sequence[Tensor | None],
        attention_mask: Tensor,
        *,
        packed: bool,
        counted: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Within, the model takes these experts: in forward, and in backward, where gradient
        checkpointing runs forward again.

        Args:
            routed: of each of B samples its (n, layers, k) experts, of the first n of its tokens;
                None where nobody knows. Other tokens take the experts of the router's own choice.
            attention_mask: (B, T), on the model's device.
            packed: the model is given the sequences without what pads them, as one.
            counted: (B, T) tokens that count for what this yields.

        Yields:
            (B,) float32, complete after forward: the share of layers of counted tokens whose
            router would have taken other experts; NaN of a sample whose experts nobody knows.

        Raises:
            ValueError: the experts are not those of this model.
        """
        known = [rows for rows in routed if rows is not None]
        unknown = torch.tensor([rows is None for rows in routed])
        differing = torch.zeros(len(routed)).masked_fill(unknown, torch.nan)
        differing = differing.to(attention_mask.device)
        if not known:
            yield differing
            return
        layers, k = known[0].shape[1:]
        if layers <= max(self._routers):
            raise ValueError(
                f"the engine names the experts of {layers} layers, the model has one with experts "
                f"at {max(self._routers)}"
            )
        mask = attention_mask.bool()
        # int16: -1 would wrap around in the engine's uint8.
        ids = torch.full((*mask.shape, layers, k), -1, dtype=torch.int16, device=mask.device)
        for rows, place, present in zip(routed, ids, mask, strict=True):
            if rows is not None:
                first = present.nonzero()[: len(rows), 0]
                place[first] = rows[: len(first)].to(mask.device, torch.int16)
        seen = mask.flatten() if packed else torch.ones_like(mask).flatten()
        if counted is not None:
            counts = counted.bool() & mask & (ids >= 0).all(-1).all(-1)
            share = counts / (counts.sum(-1, keepdim=True).clamp(min=1) * len(self._routers))
            self._weights = share.flatten()[seen]
            samples = torch.arange(len(routed), device=mask.device)
            self._sample = samples[:, None].expand_as(mask).flatten()[seen]
            self._differing, self._uncounted = differing, set(self._routers)
        self._ids = ids.flatten(0, 1)[seen]
        try:
            yield differing
        finally:
            self._ids = self._weights = None

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Within, every router chooses for itself."""
        ids, self._ids = self._ids, None
        try:
            yield
        finally:
            self._ids = ids

    def _route(self, layer: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self._ids is None:
            return forward(*args, **kwargs)
        ids = self._ids[:, layer]
        with _TopK(self._experts, ids) as given:
            answer = forward(*args, **kwargs)
        assert len(given.chosen) == 1, (
            f"the router of layer {layer} chose {len(given.chosen)} times"
        )
        if self._weights is not None and layer in self._uncounted:
            self._uncounted.remove(layer)  # forward runs again where activations are recomputed
            self._count(ids, given.chosen[0])
        return answer

    @torch.no_grad()
    def _count(self, ids: Tensor, natural: Tensor) -> None:
        assert self._weights is not None
        differs = (ids.long().sort(-1).values != natural.sort(-1).values).any(-1)
        self._differing.index_add_(0, self._sample, differs * self._weights)
