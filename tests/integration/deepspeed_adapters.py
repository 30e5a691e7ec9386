"""Run by test_adapters on every rank: OpenRLHF's actor with LoRA under each stage of ZeRO, trained,
published, saved and gone on with. Prints a line of JSON for each model."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from vespo_openrlhf import cpu

cpu.install()

import deepspeed  # noqa: E402
import transformers  # noqa: E402
from openrlhf.utils.deepspeed import DeepspeedStrategy  # noqa: E402
from openrlhf.utils.deepspeed.deepspeed_utils import (  # noqa: E402
    get_optimizer_grouped_parameters,
    get_train_ds_config,
)
from peft import PeftModel  # noqa: E402

from vespo_openrlhf.bridge.rank import checkpoint  # noqa: E402
from vespo_openrlhf.bridge.rank.guard import _gradient_is_finite  # noqa: E402
from vespo_openrlhf.bridge.rank.head import HeadActor  # noqa: E402
from vespo_openrlhf.bridge.weights.pieces import gathered, pieces  # noqa: E402

UPDATES = 3
RANK = int(os.environ["RANK"])


class Policy:
    """The policy as OpenRLHF makes it, and what is done with it."""

    def __init__(self, model: Path, stage: int, dtype: str) -> None:
        transformers.set_seed(0)
        settings = get_train_ds_config(
            offload=False, adam_offload=False, stage=stage, param_dtype=dtype, zpg=1
        )
        settings["zero_optimization"] |= {
            # Or nothing of so small a model is divided.
            "stage3_param_persistence_threshold": 0,
        }
        settings |= {
            "train_micro_batch_size_per_gpu": 1,
            "zero_allow_untested_optimizer": True,
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-2, "torch_adam": True}},
        }
        self.actor = HeadActor(
            str(model),
            attn_implementation="eager",
            param_dtype=dtype,
            lora_rank=4,
            lora_alpha=6,
            target_modules="all-linear",
            ds_config=settings,
            temperature=0.8,
        )
        self.actor.gradient_checkpointing_enable()
        self.actor.model, *_ = deepspeed.initialize(
            model=self.actor.model,
            model_parameters=get_optimizer_grouped_parameters(self.actor.model, 0.01),
            lr_scheduler=lambda o: torch.optim.lr_scheduler.LambdaLR(
                o, [lambda update: 1.0] * len(o.param_groups)
            ),
            config=settings,
        )
        self.engine = self.actor.model
        self.ds = SimpleNamespace(zero_stage=stage, tensor_parallel_size=1)
        self.strategy: Any = object.__new__(DeepspeedStrategy)
        self.strategy.args = SimpleNamespace(ds=self.ds)
        checkpoint.install(self.strategy)
        self.generator = torch.Generator().manual_seed(RANK)

    def update(self) -> None:
        tokens = torch.randint(97, (2, 14), generator=self.generator)
        mask = torch.ones_like(tokens)
        self.actor.train()
        log_probs = self.actor(tokens, mask[:, 5:], attention_mask=mask)
        loss = -(log_probs * torch.linspace(-1, 1, log_probs.numel()).view_as(log_probs)).mean()
        self.engine.backward(loss)
        assert _gradient_is_finite(self.engine, torch.device("cpu"))
        self.engine.step()

    @torch.no_grad()
    def log_probs(self) -> torch.Tensor:
        tokens = (torch.arange(28).view(2, 14) * 5) % 97
        mask = torch.ones_like(tokens)
        self.actor.eval()
        log_probs = self.actor(tokens, mask[:, 5:], attention_mask=mask)
        assert self.actor._head is not None
        return log_probs

    def published(self) -> dict[str, torch.Tensor]:
        found = pieces(self.engine.module)
        return {
            piece.name: piece.tensor().clone()
            for bucket in gathered(self.engine, self.ds, found, limit=4096)
            for piece in bucket
        }

    def frozen(self) -> dict[str, torch.Tensor]:
        found = pieces(self.engine.module)
        return {
            piece.name: piece.weight.detach().clone()
            for bucket in gathered(self.engine, self.ds, found)
            for piece in bucket
        }


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of any number."""
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    gaps = [(one[name].float() - other[name].float()).abs().max() for name in one]
    return float(torch.stack(gaps).max())  # NaN, if there is one


def load(folder: Path, dtype: str) -> Any:
    """A model from its folder, without DeepSpeed, which transformers remembers."""
    transformers.integrations.deepspeed.unset_hf_deepspeed_config()
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype={"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    )


def run(folder: Path, stage: int, dtype: str, tied: bool) -> dict[str, Any]:
    model, work = folder / f"tied-{tied}", folder / f"{stage}-{dtype}-{tied}"
    policy = Policy(model, stage, dtype)
    start = policy.published()
    for _ in range(UPDATES):
        policy.update()
    weights, log_probs = policy.published(), policy.log_probs()
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    policy.strategy.save_model(policy.actor, tokenizer, str(work / "model"))
    policy.strategy.save_ckpt(policy.engine, str(work / "checkpoints"), "global_step3")
    resumed = Policy(model, stage, dtype)
    checkpoint.load(resumed.engine, str(work / "checkpoints"), "global_step3")
    back = apart(resumed.published(), weights)
    resumed.generator.set_state(policy.generator.get_state())
    policy.update()
    resumed.update()
    torch.distributed.barrier()
    base = load(model, dtype)
    written = dict(load(work / "model", dtype).named_parameters())
    loaded = {name: p.detach() for name, p in base.named_parameters()}
    changed = [name for name in weights if not torch.equal(weights[name], loaded[name])]
    result = {
        "setup": f"{stage}-{dtype}-{'tied' if tied else 'untied'}",
        "start": apart(start, loaded),
        "frozen": apart(policy.frozen(), loaded),
        "changed": len(changed),
        "written": apart(written, weights),
        "resumed": back,
        "resumed_later": apart(resumed.published(), policy.published()),
        "sum": float(sum(tensor.double().abs().sum() for tensor in weights.values())),
    }
    adapted = PeftModel.from_pretrained(base, work / "model" / "adapter").merge_and_unload()
    result["merged"] = apart(dict(adapted.named_parameters()), weights)
    alone = HeadActor(adapted, temperature=0.8)
    alone.packing_samples = False
    tokens = (torch.arange(28).view(2, 14) * 5) % 97
    mask = torch.ones_like(tokens)
    with torch.no_grad():
        scored = alone(tokens, mask[:, 5:], attention_mask=mask)
    result["log_probs"] = float((scored - log_probs).abs().max())
    return result


torch.set_num_threads(1)
deepspeed.init_distributed()
for setup in sys.argv[2:]:
    stage, dtype, kind = setup.split("-")
    outcome = run(Path(sys.argv[1]), int(stage), dtype, kind == "tied")
    if RANK == 0:
        print(json.dumps(outcome), flush=True)
