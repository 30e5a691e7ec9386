"""Stops before a broken optimizer step: a loss or a gradient norm that is not finite.

OpenRLHF checks neither, so one such step would quietly spoil the weights. DeepSpeed leaves out
steps with overflown 16-bit gradients, but says nothing; here such a step is counted and saved too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

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
        self._update = 0
        self._experiences: list[Any] = []
        self._losses: list[torch.Tensor] = []
        self.num_skipped = 0

    def watch(self, experience: Any) -> None:
        """A micro-batch (OpenRLHF's Experience) whose forward pass comes next."""
        self._experiences.append(experience)

    def note_loss(self, loss: torch.Tensor) -> None:
        """Its 0-dim loss; stays on the device."""
        self._losses.append(loss.detach())

    def before_step(self, engine: Any) -> None:
        """Judge the update that `engine` (DeepSpeed's) is about to make.

        Raises:
            NonFiniteError: it must not be made, and the run is to stop.
        """
        losses = torch.stack(self._losses) if self._losses else torch.zeros(1)
        # Gradients that ZeRO or a 16-bit optimizer has taken over are DeepSpeed's to check.
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        # The only wait for the device in an update; every rank must come to the same decision.
        broken = ~torch.stack([losses.isfinite().all(), norm.isfinite().to(losses.device)])
        if torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1:
            flags = broken.float()
            torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
            broken = flags.bool()
        bad_loss, bad_gradient = broken.tolist()
        if bad_loss or bad_gradient:
            for parameter in engine.module.parameters():
                parameter.grad = None
            self._report("loss" if bad_loss else "gradient norm")

    def after_step(self, engine: Any) -> None:
        """Close the update; one that DeepSpeed left out for its gradients counts as broken.

        Raises:
            NonFiniteError: see `before_step`.
        """
        left_out = not engine.was_step_applied()
        try:
            if left_out:
                self._report("gradient (DeepSpeed left the step out)")
        finally:
            self._experiences.clear()
            self._losses.clear()
            self._update += 1

    def _report(self, what: str) -> None:
        path = self._save()
        named = [self._name(e, row) for e in self._experiences for row in self._suspects(e)]
        message = (
            f"the {what} of update {self._update} is not finite; its batch is in {path}"
            + (f"; samples: {'; '.join(named[:_SHOWN])}" if named else "")
            + (f" and {len(named) - _SHOWN} more" if len(named) > _SHOWN else "")
        )
        if self._stops:
            raise NonFiniteError(f"{message}. --vespo.on_nonfinite skip would leave the update out")
        self.num_skipped += 1
        print(f"[vespo] left out: {message}", flush=True)

    def _save(self) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"nonfinite_update{self._update}_rank{self._rank}.pt"
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
