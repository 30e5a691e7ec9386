"""From a name to a policy loss: ours, or a user's own function.

`get_policy_loss` checks everything that can be checked before a run starts, so a wrong option
costs seconds and not a warm-up.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vespo_openrlhf import user_code

from .diagnostics import Metrics, sequence_metrics
from .inputs import LossInputs
from .ratios import ANCHORS

LossFunction = Callable[..., tuple[Tensor, Metrics]]
Statistics = Callable[..., Tensor]
StepScale = Callable[[Mapping[str, Tensor]], Tensor]

# Modules beside this one that use it, and would import themselves through it.
_USERS = ("bench", "registry")


def _own_losses() -> Iterator[tuple[str, LossFunction]]:
    """NAME of every function `NAME_loss(inputs, *, options)` in the modules beside this one.

    So a new loss is one file, and no edit elsewhere.
    """
    package = sys.modules[__package__]
    for found in pkgutil.iter_modules(package.__path__):
        if found.name in _USERS:
            continue
        module = importlib.import_module(f"{__package__}.{found.name}")
        for name, function in vars(module).items():
            if not (name.endswith("_loss") and inspect.isfunction(function)):
                continue
            first, *options = inspect.signature(function).parameters.values()
            keywords_alone = all(p.kind is p.KEYWORD_ONLY for p in options)
            if function.__module__ == module.__name__ and first.name == "inputs" and keywords_alone:
                yield name.removesuffix("_loss"), function


_LOSSES: dict[str, LossFunction] = dict(
    sorted(_own_losses(), key=lambda loss: (loss[0] != "vespo", loss[0]))
)
POLICY_LOSS_NAMES = tuple(_LOSSES)

# Names under which frameworks ask for a correction of the engine-to-trainer mismatch.
_CORRECTION_OPTIONS = ("tis", "is_correction", "rollout_is")


@dataclass(frozen=True)
class PolicyLoss:
    """A policy loss with its options fixed: `loss, metrics = policy_loss(inputs)`.

    Attributes:
        name: as it was asked for.
        options: every option with its value, defaults included.
        needs_rollout_log_probs: the loss raises where inputs.rollout_log_probs is None.
        reads_old_log_probs: False where the trainer's recomputation of old_log_probs can be
            skipped, as far as the loss goes.
        statistics: `statistics(inputs) -> (K,) float64` of a micro-batch, for a loss that depends
            on all sequences of an update: what it reads in `LossInputs.statistics` is their sum
            over the update's micro-batches and ranks. None for a loss whose sequences are
            independent.
        step_scale: `step_scale(per_sequence) -> 0-dim` in [0, 1], what the learning rate of an
            update is to be multiplied with, from the (N,) metrics of all its sequences. None: 1.
    """

    name: str
    options: Mapping[str, Any]
    needs_rollout_log_probs: bool
    reads_old_log_probs: bool
    function: LossFunction
    statistics: Callable[[LossInputs], Tensor] | None = None
    step_scale: StepScale | None = None

    def with_own_statistics(self, inputs: LossInputs) -> LossInputs:
        """`inputs` with the statistics of themselves: for a micro-batch that is a whole update."""
        if self.statistics is None:
            return inputs
        return dataclasses.replace(inputs, statistics=self.statistics(inputs))

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """The 0-dim loss, and detached metrics: (B,) tensors per sequence, 0-dim scalars.

        Beside the loss's own those that every loss has, see `sequence_metrics`. log W starts from
        the loss's anchor, and from the rollout log-probs where it has none.
        """
        loss, metrics = self.function(inputs, **self.options)
        anchor = self.options.get("anchor")
        return loss, sequence_metrics(inputs, metrics, anchor if anchor in ANCHORS else "rollout")


def get_policy_loss(name: str, **options: Any) -> PolicyLoss:
    """The policy loss of that name, its options checked.

    Args:
        name: one of POLICY_LOSS_NAMES, or "package.module:function" or "path/to/file.py:function"
            for a user's own `function(inputs: LossInputs, **options) -> (loss, metrics)`. Such a
            function may carry the attributes needs_rollout_log_probs, reads_old_log_probs,
            statistics (it is also given those options of the loss that it names) and step_scale,
            see `PolicyLoss`; without them it is given all log-probs, so that nothing it may read is
            left out. Ours carry the last two; what they read is found out.
        options: the loss's keyword options, see `option_defaults`.

    Raises:
        ValueError: unknown name or option, an option out of range, or a user's function that
            cannot be found or called so. A user's loss also raises it when called, where it
            returns anything but a finite scalar and a dict of tensors; that check waits for the
            device once per call.
    """
    if ":" in name:
        return _user_loss(name, options)
    defaults = option_defaults(name)
    _check_options(name, options, defaults)
    resolved = defaults | options
    policy_loss = _policy_loss(name, resolved, _LOSSES[name], _LOSSES[name])
    # The loss itself knows its ranges, and says so now and not in a worker.
    whole = policy_loss.with_own_statistics(one_token())
    policy_loss(whole)
    return dataclasses.replace(
        policy_loss,
        needs_rollout_log_probs=_refuses(policy_loss, whole, "rollout_log_probs"),
        reads_old_log_probs=_refuses(policy_loss, whole, "old_log_probs"),
    )


def one_token() -> LossInputs:
    """A made-up micro-batch of one action token, for trying a loss out."""
    zero = torch.zeros(1, 1)
    return LossInputs(
        log_probs=zero,
        advantages=zero,
        action_mask=torch.ones(1, 1),
        rollout_log_probs=zero,
        old_log_probs=zero,
    )


def option_defaults(name: str) -> dict[str, Any]:
    """The options of a loss, by its name or where a user's own is found, with their defaults.

    Raises:
        ValueError: unknown name; the message lists the names, nearest first. Or a user's function
            that cannot be found.
    """
    if ":" in name:
        return _keyword_options(_load_function(name))
    if name not in _LOSSES:
        near = difflib.get_close_matches(name, POLICY_LOSS_NAMES, n=3, cutoff=0.3)
        names = near + [other for other in POLICY_LOSS_NAMES if other not in near]
        raise ValueError(
            f"unknown policy loss {name!r}. Known: {', '.join(names)}; or your own as "
            "package.module:function or path/to/file.py:function"
        )
    return _keyword_options(_LOSSES[name])


def _keyword_options(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = list(inspect.signature(function).parameters.values())[1:]
    return {
        p.name: p.default for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    }


def _check_options(name: str, options: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    for option in options:
        if option in defaults:
            continue
        known = ", ".join(f"{o}={_shown(v)}" for o, v in defaults.items()) or "none"
        near = difflib.get_close_matches(option, defaults, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        message = f"{name} has no option {option!r}{hint}. Its options: {known}"
        if option.startswith(_CORRECTION_OPTIONS):
            message += (
                ". A weight anchored on the rollout log-probs already contains the "
                "engine-to-trainer correction; a second one would count it twice"
            )
        raise ValueError(message)


def _shown(default: Any) -> str:
    return "(required)" if default is inspect.Parameter.empty else repr(default)


def _refuses(policy_loss: PolicyLoss, whole: LossInputs, field: str) -> bool:
    """Whether a loss of ours, which takes whole inputs, cannot do without this field of theirs."""
    lacking: dict[str, Any] = {field: None}
    try:
        policy_loss(dataclasses.replace(whole, **lacking))
    except ValueError:
        return True
    return False


def _policy_loss(
    name: str, options: Mapping[str, Any], declared: LossFunction, function: LossFunction
) -> PolicyLoss:
    """The loss `function`, with what `declared` says of itself by its attributes."""
    defaults = {
        option: default
        for option, default in _keyword_options(declared).items()
        if default is not inspect.Parameter.empty
    }
    return PolicyLoss(
        name,
        options,
        bool(getattr(declared, "needs_rollout_log_probs", True)),
        bool(getattr(declared, "reads_old_log_probs", True)),
        function,
        _statistics(getattr(declared, "statistics", None), defaults | dict(options)),
        getattr(declared, "step_scale", None),
    )


def _statistics(
    statistics: Statistics | None, options: Mapping[str, Any]
) -> Callable[[LossInputs], Tensor] | None:
    if statistics is None:
        return None
    own = {k: options[k] for k in _keyword_options(statistics) if k in options}

    @torch.no_grad()
    def of_inputs(inputs: LossInputs) -> Tensor:
        return statistics(inputs, **own)

    return of_inputs


def _user_loss(reference: str, options: Mapping[str, Any]) -> PolicyLoss:
    function = _load_function(reference)
    parameters = inspect.signature(function).parameters.values()
    accepts_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not parameters or next(iter(parameters)).kind is inspect.Parameter.KEYWORD_ONLY:
        raise ValueError(f"{reference}: {_EXPECTED}, it takes no positional argument")
    if not accepts_any:
        _check_options(reference, options, _keyword_options(function))
    try:
        inspect.signature(function).bind(object(), **options)
    except TypeError as error:
        raise ValueError(f"{reference}: {_EXPECTED}: {error}") from error

    def checked(inputs: LossInputs, **options: Any) -> tuple[Tensor, Metrics]:
        return _check_result(reference, function(inputs, **options))

    return _policy_loss(reference, dict(options), function, checked)


_EXPECTED = "a policy loss is called as function(inputs: LossInputs, **options) -> (loss, metrics)"


def _load_function(reference: str) -> LossFunction:
    function: LossFunction = user_code.load(reference, "policy loss")
    if not callable(function):
        raise ValueError(f"policy loss {reference} is no function")
    return function


def _check_result(reference: str, result: Any) -> tuple[Tensor, Metrics]:
    if not (isinstance(result, tuple) and len(result) == 2):
        raise ValueError(f"{reference} must return (loss, metrics), got {type(result).__name__}")
    loss, metrics = result
    if not isinstance(loss, Tensor) or loss.dim() != 0:
        shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise ValueError(f"{reference} must return a 0-dim loss tensor, got {shape}")
    if not (isinstance(metrics, dict) and all(isinstance(m, Tensor) for m in metrics.values())):
        raise ValueError(f"{reference} must return its metrics as a dict of tensors")
    if not torch.isfinite(loss):
        raise ValueError(f"{reference} returned a loss that is not finite: {loss.item()}")
    return loss, {name: metric.detach() for name, metric in metrics.items()}
