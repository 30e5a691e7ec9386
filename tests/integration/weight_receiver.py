"""Run by test_cpu_patches: receives weights as a vLLM worker would, and prints them as JSON.

Arguments: the trainer's port, and "dies" for a worker that is killed before its second bucket.
"""

import json
import os
import signal
import sys
from types import SimpleNamespace

import torch

from vespo_openrlhf.bridge.weights.receiver import WeightReceiver

BUCKETS = [
    [("layer.weight", (2, 3)), ("layer.bias", (2,))],
    [("head.weight", (1, 2))],
]


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.loaded: dict[str, torch.Tensor] = {}

    def load_weights(self, weights: list[tuple[str, torch.Tensor]]) -> None:
        self.loaded.update(weights)


class Worker(WeightReceiver):
    """What the extension reads of vLLM's worker, rank 0 of the engine's own group."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.model_config = SimpleNamespace(dtype=torch.float32)
        self.vllm_config = None
        self.model_runner = SimpleNamespace(model=Model())


print("ready", flush=True)
torch.distributed.init_process_group(
    "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
)
worker = Worker()
worker.init_process_group("127.0.0.1", int(sys.argv[1]), 1, 2, "weights", "gloo", False)
for shapes in BUCKETS:
    assert worker.receive_weights(torch.float32, shapes) == ""
    if "dies" in sys.argv:
        os.kill(os.getpid(), signal.SIGKILL)
assert worker.finish_weights() == ""
loaded = worker.model_runner.model.loaded
print(json.dumps({name: tensor.tolist() for name, tensor in loaded.items()}))
