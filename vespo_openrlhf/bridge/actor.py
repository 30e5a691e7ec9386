"""OpenRLHF's policy actor with our loss in its trainer. Runs in Ray workers, one per rank."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from openrlhf.models import PolicyLoss
from openrlhf.trainer.ray import ppo_actor

from vespo_openrlhf.bridge.loss import PolicyLossAdapter, build_loss, uses_our_loss
from vespo_openrlhf.bridge.seams import SeamError, plain_class


def flatten(args: SimpleNamespace, prefix: str = "") -> dict[str, Any]:
    """OpenRLHF's nested arguments as flags by their dotted names: the inverse of `hierarchize`."""
    flags: dict[str, Any] = {}
    for name, value in vars(args).items():
        if isinstance(value, SimpleNamespace):
            flags |= flatten(value, f"{prefix}{name}.")
        else:
            flags[f"{prefix}{name}"] = value
    return flags


class PolicyActor(plain_class(ppo_actor.PolicyModelActor)):  # type: ignore[misc]
    """`PolicyModelActor` whose `actor_loss_fn` is ours, unless the run asks for OpenRLHF's own.

    OpenRLHF builds its trainer, and the trainer its loss, inside the worker; so the worker is
    where the loss is exchanged, and where it is proved that it was.
    """

    policy_loss: PolicyLossAdapter | None = None

    def init_model_from_pretrained(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        super().init_model_from_pretrained(strategy, *args, **kwargs)
        flags = flatten(strategy.args)
        if not uses_our_loss(flags):
            return
        if not isinstance(getattr(self.trainer, "actor_loss_fn", None), PolicyLoss):
            raise SeamError(
                "OpenRLHF has moved a seam we plug into (policy loss): its trainer holds no "
                "PolicyLoss in actor_loss_fn"
            )
        self.policy_loss = PolicyLossAdapter(build_loss(flags))
        self.trainer.actor_loss_fn = self.policy_loss
        strategy.print(f"policy loss in place: {self.policy_loss.name}")

    def fit(self, kl_ctl: float = 0) -> dict[str, Any]:
        """Train on the replay buffer; OpenRLHF's metrics and our loss's.

        Raises:
            RuntimeError: OpenRLHF took its steps without calling our loss.
        """
        status: dict[str, Any] = super().fit(kl_ctl)
        return status if self.policy_loss is None else status | self.policy_loss.drain()
