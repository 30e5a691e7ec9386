"""The weights on their way from the trainer to the engines, any of which may die meanwhile.

OpenRLHF's broadcast goes through the parameters one by one, on every rank of the trainer at once.
If rank 0 left that loop because an engine is gone, the other ranks would wait for it forever. So
an error is kept until the loop is over: what is still to be sent is not sent, and then it is
raised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ray
import torch

from vespo_openrlhf.bridge.driver import engine_name


class WeightPublisher:
    """Sends the weights of one rank's `ActorPPOTrainer` to the engines that are named.

    Args:
        trainer: OpenRLHF's trainer, with its process group of all engines made.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        self._receivers = [engine_name(i) for i in range(len(trainer.vllm_engines or ()))]

    def publish(self, names: Sequence[str], engines: Sequence[Any]) -> None:
        """Broadcast the weights to just these engines, named by `engine_name`.

        The process group is made anew where they are not the ones it was made for: a restarted
        engine has left it, and one that only joins must not be waited for by the others.

        Raises:
            Exception: some engine has failed; none may be taken to have the weights.
        """
        trainer = self._trainer
        vllm = trainer.args.vllm
        if trainer.use_cuda_ipc or vllm.sync_with_ray or torch.distributed.get_rank() != 0:
            trainer.broadcast_to_vllm()
            return
        update = _Update()
        trainer.vllm_engines = [_EngineCalls(update, engine) for engine in engines]
        if list(names) != self._receivers:
            vllm.num_engines = len(engines)
            trainer._model_update_group = None  # closes it: whoever still waits in it is freed
            update.attempt(lambda: trainer._init_vllm_sync_group(vllm.sync_backend))
        group = trainer._model_update_group
        trainer._model_update_group = _GroupCalls(update, group)
        trainer.broadcast_to_vllm()
        trainer._model_update_group = None if update.error else group
        self._receivers = [] if update.error else list(names)
        if update.error:
            raise update.error


class _Update:
    """One update: its calls to engines, and the first error."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self._calls: list[Any] = []
        self._nothing = ray.put(None)

    def call(self, method: Any, args: Any, kwargs: Any) -> Any:
        """Start an engine's method; what is returned can be waited for and never fails."""
        if self.error is None:
            self._calls.append(method.remote(*args, **kwargs))
        return self._nothing

    def attempt(self, work: Callable[[], Any]) -> None:
        """Do the trainer's part, then wait for the engines'."""
        if self.error is not None:
            return
        try:
            work()
            ray.get(self._calls)
        except Exception as error:
            self.error = error
        self._calls = []


class _GroupCalls:
    """A process group whose broadcasts are attempts."""

    def __init__(self, update: _Update, group: Any) -> None:
        self._update = update
        self._group = group

    def broadcast(self, *args: Any, **kwargs: Any) -> None:
        self._update.attempt(lambda: self._group.broadcast(*args, **kwargs))


class _EngineCalls:
    """An engine actor whose method calls never fail."""

    def __init__(self, update: _Update, engine: Any) -> None:
        self._update = update
        self._engine = engine

    def __getattr__(self, name: str) -> _Method:
        return _Method(self._update, getattr(self._engine, name))


class _Method:
    def __init__(self, update: _Update, method: Any) -> None:
        self._update = update
        self._method = method

    def remote(self, *args: Any, **kwargs: Any) -> Any:
        return self._update.call(self._method, args, kwargs)
