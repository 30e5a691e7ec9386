"""Run by test_cpu_patches: prints the gradient norm that DeepSpeed reports, and the true one."""

import sys

import torch

from vespo_openrlhf import cpu

cpu.install()

import deepspeed  # noqa: E402

clipping = float(sys.argv[1])
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
print("norms", float(engine.get_global_grad_norm()), float(true))
