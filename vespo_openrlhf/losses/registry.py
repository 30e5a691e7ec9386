"""From a name to a policy loss: ours, or a user's own function.

`get_policy_loss` checks everything that can be checked before a run starts, so a wrong option
costs seconds and not a warm-up.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .clipped import decoupled_ppo_loss, gmpo_loss, gspo_loss, ppo_loss, sapo_loss
from .diagnostics import Metrics, completed
from .inputs import LossInputs
from .ratios import ANCHORS
from .vespo import vespo_loss
from .weighted import cispo_loss, reinforce_loss, tis_loss, topr_loss

LossFunction = Callable[..., tuple[Tensor, Metrics]]

_LOSSES: dict[str, LossFunction] = {
    "vespo": vespo_loss,
    "ppo": ppo_loss,
    "gspo": gspo_loss,
    "sapo": sapo_loss,
    "cispo": cispo_loss,
    "topr": topr_loss,
    "gmpo": gmpo_loss,
    "reinforce": reinforce_loss,
    "tis": tis_loss,
    "decoupled_ppo": decoupled_ppo_loss,
}
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
    """

    name: str
    options: Mapping[str, Any]
    needs_rollout_log_probs: bool
    reads_old_log_probs: bool
    function: LossFunction

    def __call__(self, inputs: LossInputs) -> tuple[Tensor, Metrics]:
        """The 0-dim loss, and detached metrics: (B,) tensors per sequence, 0-dim scalars.

        Beside the loss's own those that every loss has, see `sequence_metrics`. log W starts from
        the loss's anchor, and from the rollout log-probs where it has none.
        """
        loss, metrics = self.function(inputs, **self.options)
        anchor = self.options.get("anchor")
        return loss, completed(inputs, metrics, anchor if anchor in ANCHORS else "rollout")


def get_policy_loss(name: str, **options: Any) -> PolicyLoss:
    """The policy loss of that name, its options checked.

    Args:
        name: one of POLICY_LOSS_NAMES, or "package.module:function" or "path/to/file.py:function"
            for a user's own `function(inputs: LossInputs, **options) -> (loss, metrics)`. Such a
            function may carry the attributes needs_rollout_log_probs and reads_old_log_probs;
            both count as True without them, so that nothing it may read is left out.
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
    function = _LOSSES[name]
    # One made-up token: the loss itself knows its ranges, and says so now and not in a worker.
    one = torch.zeros(1, 1)
    whole = LossInputs(one, one, one, one, one)
    function(whole, **resolved)
    needs_rollout = _refuses(function, resolved, replace(whole, rollout_log_probs=None))
    reads_old = _refuses(function, resolved, replace(whole, old_log_probs=None))
    return PolicyLoss(name, resolved, needs_rollout, reads_old, function)


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


def _keyword_options(function: LossFunction) -> dict[str, Any]:
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


def _refuses(function: LossFunction, options: Mapping[str, Any], without: LossInputs) -> bool:
    """Whether a loss of ours, which takes whole inputs, cannot do without what these lack."""
    try:
        function(without, **options)
    except ValueError:
        return True
    return False


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

    return PolicyLoss(
        reference,
        dict(options),
        bool(getattr(function, "needs_rollout_log_probs", True)),
        bool(getattr(function, "reads_old_log_probs", True)),
        checked,
    )


_EXPECTED = "a policy loss is called as function(inputs: LossInputs, **options) -> (loss, metrics)"


def _load_function(reference: str) -> LossFunction:
    where, _, function_name = reference.rpartition(":")
    if where.endswith(".py"):
        if not Path(where).is_file():
            raise ValueError(f"{reference}: there is no file {Path(where).absolute()}")
        spec = importlib.util.spec_from_file_location(f"vespo_user_loss_{Path(where).stem}", where)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses look their module up by its name
        spec.loader.exec_module(module)
    else:
        try:
            module = importlib.import_module(where)
        except ImportError as error:
            raise ValueError(f"{reference}: cannot import {where!r}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"{reference}: {where} has no function {function_name!r}")
    loss_function: LossFunction = function
    return loss_function


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
