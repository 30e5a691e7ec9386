"""Run by test_cpu_patches: the gradient norms that DeepSpeed reports, and the true ones: a line for
each clipping."""

import sys

import torch

from vespo_openrlhf import cpu

cpu.install()

import deepspeed  # noqa: E402


def norms(clipping: float) -> tuple[float, float]:
    torch.manual_seed(0)
    model = torch.nn.Linear(8, 4)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config={
            "train_micro_batch_size_per_gpu": 2,
            "gradient_accumulation_steps": 2,
            "gradient_clipping": clipping,
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
            "zero_optimization": {"stage": 0},
        },
    )
    inputs = torch.randn(2, 2, 8)
    reference = torch.nn.Linear(8, 4)
    reference.load_state_dict(model.state_dict())
    for micro_batch in inputs:
        engine.backward(engine(micro_batch).square().sum())
        engine.step()
        (reference(micro_batch).square().sum() / 2).backward()
    true = torch.nn.utils.get_total_norm([p.grad for p in reference.parameters()])
    return float(engine.get_global_grad_norm()), float(true)


for clipping in map(float, sys.argv[1:]):
    print("norms", *norms(clipping))
