"""Run by test_cpu_patches on two ranks: a large and a small parameter, gathered at once by ZeRO-3.
Prints how often one of them was not whole."""

import torch

from vespo_openrlhf import cpu

cpu.install()

import deepspeed  # noqa: E402

torch.set_num_threads(1)
deepspeed.init_distributed()
with deepspeed.zero.Init(dtype=torch.float32):
    parameters = torch.nn.ParameterList(
        [torch.nn.Parameter(torch.full((count,), 3.0)) for count in (4_000_000, 8)]
    )
torn = 0
for _ in range(10):
    with deepspeed.zero.GatheredParameters(list(parameters)):
        torn += sum(int((parameter.clone() != 3).any()) for parameter in parameters)
print("torn", torn, flush=True)
