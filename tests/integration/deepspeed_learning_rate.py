"""Run by test_guard: how far DeepSpeed's engine moves the weights in steps of unequal length.

Prints one line of JSON per set-up: for each step, how far it moved the weights as a part of the
whole step, and the learning rate that is left for the next one.
"""

import json
import sys
from typing import Any

import torch

from vespo_openrlhf import cpu

cpu.install()

import deepspeed  # noqa: E402

from vespo_openrlhf.bridge.rank import learning_rate  # noqa: E402


def build(stage: int, dtype: str) -> Any:
    torch.manual_seed(0)
    model = torch.nn.Linear(64, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        lr_scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 / (step + 1)),
        config={
            "train_micro_batch_size_per_gpu": 2,
            "bf16": {"enabled": dtype == "bf16"},
            "optimizer": {
                "type": "AdamW",
                "params": {"lr": 1.0, "weight_decay": 0.0, "torch_adam": True},
            },
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
        },
    )
    return engine


def steps(engine: Any, factors: tuple[float, ...]) -> tuple[list[float], list[float]]:
    weight, moves, rates = engine.module.weight, [], []
    sharded = engine.zero_optimization_stage() == 3
    for factor in factors:
        with deepspeed.zero.GatheredParameters([weight], enabled=sharded):
            before = weight.detach().float().clone()
        # The gradient is constant, and so Adam's step but for its learning rate.
        engine.backward(engine(torch.ones(2, 64).to(weight.dtype)).float().sum())
        with learning_rate.scaled(engine.optimizer, factor):
            engine.step()
        with deepspeed.zero.GatheredParameters([weight], enabled=sharded):
            moves.append((before - weight.detach().float()).mean().item())
        rates.append(engine.optimizer.param_groups[0]["lr"])
    return moves, rates


for setup in sys.argv[1:]:
    stage, dtype = setup.split("-")
    whole, _ = steps(build(int(stage), dtype), (1.0, 1.0, 1.0))
    moves, rates = steps(build(int(stage), dtype), (1.0, 0.25, 0.5))
    parts = [move / full for move, full in zip(moves, whole, strict=True)]
    print(json.dumps({"setup": setup, "parts": parts, "rates": rates}), flush=True)
