"""Run by test_checkpoints: saves a checkpoint, and that of a better evaluation after it."""

import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from vespo_openrlhf import cpu

cpu.install()

import deepspeed  # noqa: E402
from openrlhf.utils.deepspeed import DeepspeedStrategy  # noqa: E402

from vespo_openrlhf.bridge.actor import PolicyActor  # noqa: E402

folder = Path(sys.argv[1])
model = torch.nn.Linear(8, 4)
engine, *_ = deepspeed.initialize(
    model=model,
    model_parameters=model.parameters(),
    config={
        "train_micro_batch_size_per_gpu": 1,
        "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
    },
)
actor = object.__new__(PolicyActor)
actor.actor = SimpleNamespace(model=engine)
actor.strategy = object.__new__(DeepspeedStrategy)
actor.strategy.args = SimpleNamespace(
    ckpt=SimpleNamespace(path=str(folder), max_num=3, max_mem=float("inf"))
)
actor.disable_ds_ckpt = actor.save_hf_ckpt = False

actor.save_checkpoint("global_step4", client_states={"global_step": 4, "scheduler": "{}"})
actor.save_checkpoint("best_global_step6", client_states={"global_step": 6}, metric_value=0.5)
_, states = actor.strategy.load_ckpt(engine, str(folder / "_actor"))
print("resumes at", states["global_step"], "scheduler" in states)
