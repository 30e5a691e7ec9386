"""The folder that a run with LoRA writes its model to:

    MODEL/                the model with the adapter merged in, as the engines had it, and tokenizer
    MODEL/adapter/        the adapter alone, for `peft.PeftModel.from_pretrained`

OpenRLHF would write the adapter in the model's place, and with ZeRO-3 in pickle's format.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from openrlhf.models import Actor
from openrlhf.utils import distributed_util
from peft import PeftModel

from vespo_openrlhf.bridge.weights.pieces import gathered, pieces

ADAPTER = "adapter"


def save(
    upstream: Callable[..., None], ds: Any, model: Any, tokenizer: Any, folder: str, **options: Any
) -> None:
    """In the place of a strategy's `save_model`; all ranks take part.

    Args:
        upstream: that `save_model`, for models without an adapter.
        ds: OpenRLHF's flags of that name.
        model: OpenRLHF's `Actor`, or DeepSpeed's engine.
        options: of transformers' `save_pretrained`.
    """
    engine = model.model if isinstance(model, Actor) else model
    policy = engine.module
    if not isinstance(policy, PeftModel):
        upstream(model, tokenizer, folder, **options)
        return
    base: Any = policy.get_base_model()
    kept = base.state_dict().keys()
    merged = {name: buffer for name, buffer in base.named_buffers() if name in kept}
    adapter = {}
    names = {id(parameter): name for name, parameter in policy.named_parameters()}
    writes = torch.distributed.get_rank() == 0  # and holds it all in the host's memory
    for bucket in gathered(engine, ds, pieces(policy)):
        for piece in bucket if writes else ():
            merged[piece.name] = piece.tensor().to("cpu", copy=True)
            for parameter in piece.parameters[1:]:
                adapter[names[id(parameter)]] = parameter.data.to("cpu", copy=True)
    if writes:
        base.save_pretrained(folder, state_dict=merged, **options)
        tokenizer.save_pretrained(folder)
        # True or "auto" would look the base model up on the hub.
        policy.save_pretrained(
            str(Path(folder) / ADAPTER), state_dict=adapter, save_embedding_layers=False
        )
    distributed_util.torch_dist_barrier_and_cuda_sync()
