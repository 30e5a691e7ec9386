"""Run by test_cpu_patches: receives one weight as a vLLM worker would, and prints it as JSON."""

import json
import sys
from types import SimpleNamespace

import torch

from vespo_openrlhf.cpu.weight_sync import GlooBroadcastGroup, receive_weight

loaded: dict[str, torch.Tensor] = {}


def load_weights(weights: list[tuple[str, torch.Tensor]]) -> None:
    loaded.update(weights)


worker = SimpleNamespace(  # what receive_weight reads of vLLM's worker
    model_config=SimpleNamespace(dtype=torch.float32),
    model_runner=SimpleNamespace(model=SimpleNamespace(load_weights=load_weights)),
    _model_update_group=GlooBroadcastGroup("127.0.0.1", int(sys.argv[1]), rank=1, world_size=2),
)
receive_weight(worker, "layer.weight", torch.float32, torch.Size([2, 3]))
print(json.dumps({name: tensor.tolist() for name, tensor in loaded.items()}))
