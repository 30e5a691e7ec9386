"""Run by test_guard: DeepSpeed's engine, and what the guard makes of its broken updates.

Prints one line of JSON per update of two micro-batches: what was broken, whether the step was
made, whether the weights moved, and whether all of them are finite.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from vespo_openrlhf import cpu

cpu.install()

import deepspeed  # noqa: E402

from vespo_openrlhf.bridge.rank.guard import NonFiniteError, NonFiniteGuard  # noqa: E402

ONES = torch.ones(2, 3)
EXPERIENCE = SimpleNamespace(
    action_mask=ONES,
    advantages=ONES,
    rollout_log_probs=-ONES,
    action_log_probs=None,
    prompts=["1+1=", "2+2="],
)


def build(stage: int, dtype: str) -> Any:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Linear(16, 4))
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=model.parameters(),
        config={
            "train_micro_batch_size_per_gpu": 2,
            "gradient_accumulation_steps": 2,
            "gradient_clipping": 1.0,
            "bf16": {"enabled": dtype == "bf16"},
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
            "zero_optimization": {"stage": stage},
            "zero_allow_untested_optimizer": True,
        },
    )
    return engine


def weights(engine: Any) -> torch.Tensor:
    parameters = list(engine.module.parameters())
    with deepspeed.zero.GatheredParameters(
        parameters, enabled=engine.zero_optimization_stage() == 3
    ):
        return torch.cat([p.detach().float().flatten() for p in parameters])


def update(engine: Any, guard: NonFiniteGuard, broken: str) -> dict[str, Any]:
    before = weights(engine)
    for micro_batch in range(2):
        guard.watch(EXPERIENCE)
        inputs = torch.randn(2, 8).to(next(engine.module.parameters()).dtype)
        loss = engine(inputs).float().square().mean()
        noted = loss
        if micro_batch == 0 and broken == "gradient":  # of a loss that is finite itself
            loss.register_hook(lambda gradient: gradient * torch.nan)
        if micro_batch == 0 and broken == "loss":  # with a gradient that is finite
            noted = torch.tensor(torch.nan)
        guard.note_loss(noted)
        engine.backward(loss)
        if micro_batch == 0:
            engine.step()
    result: dict[str, Any] = {"broken": broken}
    try:
        result["made"] = guard.take_step(engine, engine.step)
    except NonFiniteError as error:
        result["error"] = str(error)
    after = weights(engine)
    moved, finite = not torch.equal(before, after), bool(after.isfinite().all())
    return result | {"moved": moved, "finite": finite}


for setup in sys.argv[2:]:
    stage, dtype = setup.split("-")
    engine = build(int(stage), dtype)
    guard = NonFiniteGuard("skip", Path(sys.argv[1]), 0)
    results = [update(engine, guard, what) for what in ("", "gradient", "", "loss", "")]
    stopping = NonFiniteGuard("stop", Path(sys.argv[1]), 0)
    results.append(update(engine, stopping, "gradient"))
    print(json.dumps({"setup": setup, "results": results}), flush=True)
