"""Stops before a broken optimizer step: a loss or a gradient norm that is not finite.

OpenRLHF checks neither, so one such step would quietly spoil the weights. DeepSpeed looks for
such gradients itself, but says nothing of it, and not in every configuration: in bf16 not with
ZeRO-3, whose reported norm hides them too, nor without ZeRO.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from vespo_openrlhf.replaced import replaced

_SHOWN = 3


class NonFiniteError(RuntimeError):
    """The run was stopped before a step that would have spoiled the weights."""


class NonFiniteGuard:
    """Watches the micro-batches of one optimizer step and judges it before it is taken.

    Args:
        action: "stop" raises `NonFiniteError`; "skip" leaves the step out and counts it.
        folder: where the offending batches are saved.
        rank: this process's rank, for the files' names.
    """

    def __init__(self, action: str, folder: Path, rank: int) -> None:
        self._stops = action == "stop"
        self._folder = folder
        self._rank = rank
        self._experiences: list[Any] = []
        self._losses: list[torch.Tensor] = []

    def watch(self, experience: Any) -> None:
        """A micro-batch (OpenRLHF's Experience) whose forward pass comes next."""
        self._experiences.append(experience)

    def note_loss(self, loss: torch.Tensor) -> None:
        """Its 0-dim loss; stays on the device."""
        self._losses.append(loss.detach())

    def watched(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """A policy loss in OpenRLHF's shape, whose first result, the loss, is noted."""

        def call(*args: Any, **kwargs: Any) -> Any:
            results = loss(*args, **kwargs)
            self.note_loss(results[0])
            return results

        return call

    def take_step(self, engine: Any, step: Callable[[], None]) -> bool:
        """Take an optimizer step, unless it is broken.

        Args:
            engine: DeepSpeed's, after the backward pass of the step's last micro-batch.
            step: calls its `step`.

        Returns:
            Whether it was made. In fp16 DeepSpeed may leave it out to adapt its loss scale.

        Raises:
            NonFiniteError: it must not be made, and the run is to stop.
        """
        broken = self._broken(engine)
        if broken:
            self._report(broken, engine.global_steps)
        with _leaving_out_the_step(engine) if broken else contextlib.nullcontext():
            step()
        self._experiences.clear()
        self._losses.clear()
        applied: bool = engine.was_step_applied()
        return applied

    def _broken(self, engine: Any) -> str | None:
        """What of the step is not finite, if anything is."""
        losses = torch.stack(self._losses)
        finite = torch.stack([losses.isfinite().all(), _gradient_is_finite(engine, losses.device)])
        # Every rank must come to the same decision.
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            flags = finite.float()
            torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MIN)
            finite = flags.bool()
        finite_loss, finite_gradient = finite.tolist()  # the only wait for the device
        if not finite_loss:
            return "loss"
        return None if finite_gradient else "gradient norm"

    def _report(self, what: str, update: int) -> None:
        path = self._save(update)
        named = [self._name(e, row) for e in self._experiences for row in self._suspects(e)]
        message = (
            f"the {what} of update {update} is not finite; its batch is in {path}"
            + (f"; samples: {'; '.join(named[:_SHOWN])}" if named else "")
            + (f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else "")
        )
        if self._stops:
            raise NonFiniteError(f"{message}. --vespo.on_nonfinite skip would leave the update out")
        print(f"[vespo] left out: {message}", flush=True)

    def _save(self, update: int) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"nonfinite_update{update}_rank{self._rank}.pt"
        batches = [
            {
                name: value.detach().cpu() if isinstance(value, torch.Tensor) else value
                for name, value in vars(experience).items()
                if isinstance(value, (torch.Tensor, list))
            }
            for experience in self._experiences
        ]
        torch.save({"losses": [loss.cpu() for loss in self._losses], "batches": batches}, path)
        return path

    @staticmethod
    def _suspects(experience: Any) -> list[int]:
        """Rows in which something that went into the loss is not finite."""
        mask = experience.action_mask.bool()
        bad = torch.zeros(mask.shape[0], dtype=torch.bool, device=mask.device)
        for name in ("advantages", "rollout_log_probs", "action_log_probs"):
            value = getattr(experience, name)
            if value is not None:
                bad |= (mask & ~value.isfinite()).any(-1)
        rows: list[int] = bad.nonzero().flatten().tolist()
        return rows

    @staticmethod
    def _name(experience: Any, row: int) -> str:
        prompts = experience.prompts or []
        return f"row {row}" + (f" {prompts[row]!r}" if row < len(prompts) else "")


def _gradient_is_finite(engine: Any, device: torch.device) -> torch.Tensor:
    """Whether the norm of this rank's part of the gradient is finite: 0-dim bool.

    In fp16 an overflow is how DeepSpeed finds its loss scale: it is left to that.
    """
    optimizer = engine.optimizer
    if engine.fp16_enabled():
        return torch.ones((), dtype=torch.bool, device=device)
    if engine.zero_optimization() and engine.zero_cpu_offload():
        # The gradient is on its way to the CPU, which DeepSpeed's own check waits for.
        return torch.tensor(not optimizer.has_overflow(), device=device)
    # ZeRO takes the gradients off the parameters and keeps its rank's part of them, by group.
    parts = getattr(optimizer, "averaged_gradients", None)
    if parts is None:
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
    else:
        gradients = [gradient for group in parts.values() for gradient in group or ()]
    return torch.nn.utils.get_total_norm(gradients).isfinite().to(device)


@contextlib.contextmanager
def _leaving_out_the_step(engine: Any) -> Iterator[None]:
    """DeepSpeed's `step` then does all but the update and the learning rate, and clears the
    gradients: with ZeRO as after an overflow, otherwise by the engine."""
    changes: dict[str, Any] = {"overflow": True}
    if hasattr(engine.optimizer, "check_overflow"):
        changes["check_overflow"] = lambda *args, **kwargs: None
    else:
        changes["step"] = lambda *args, **kwargs: None
    with replaced(engine.optimizer, **changes):
        yield
