"""Run by test_head on every rank: trains tiny models with OpenRLHF's actor and with ours, under
each stage of ZeRO, and prints how far weights and log-probs are apart in the end."""

import json
import os
from typing import Any

import torch

from vespo_openrlhf import cpu

cpu.install()

import deepspeed  # noqa: E402
from openrlhf.models import Actor  # noqa: E402
from openrlhf.utils.deepspeed.deepspeed_utils import get_train_ds_config  # noqa: E402
from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: E402

from vespo_openrlhf.bridge.rank.head import HeadActor  # noqa: E402

UPDATES = 3


def train(cls: type[Actor], stage: int, tied: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Some updates of two micro-batches each; the weights, and log-probs before the last update."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        tie_word_embeddings=tied,
    )
    actor = cls(Qwen2ForCausalLM(config), temperature=0.8)
    actor.packing_samples = False
    actor.model.config.use_cache = False
    settings = get_train_ds_config(
        offload=False, adam_offload=False, stage=stage, param_dtype="fp32", zpg=1
    )
    # Or nothing of so small a model is divided.
    settings["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    settings |= {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 2,
        "zero_allow_untested_optimizer": True,
    }
    parameters = list(actor.model.parameters())
    # Plain descent: what it makes of rounding stays as small.
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    actor.model, *_ = deepspeed.initialize(
        model=actor.model, optimizer=optimizer, model_parameters=parameters, config=settings
    )
    before = gathered(actor.model, stage)
    generator = torch.Generator().manual_seed(int(os.environ["RANK"]))
    actor.train()
    for _ in range(2 * UPDATES):
        tokens = torch.randint(97, (2, 14), generator=generator)
        mask = torch.ones_like(tokens)
        actions = mask[:, 5:].bool()
        actions[1, -2:] = False
        actor.eval()
        with torch.no_grad():
            old = actor(tokens, actions, attention_mask=mask)
        actor.train()
        log_probs, output = actor(
            tokens, actions, attention_mask=mask, return_output=True, return_entropy=True
        )
        assert (log_probs - old).abs().max() < 1e-4
        loss = -(log_probs * torch.linspace(-1, 1, log_probs.numel()).view_as(log_probs)).mean()
        loss = loss - 0.1 * (output.entropy[:, -actions.shape[1] :] * actions).mean()
        actor.model.backward(loss)
        actor.model.step()
    if cls is HeadActor:
        assert actor._head is not None
    weights = gathered(actor.model, stage)
    assert all((a - b).abs().max() > 1e-4 for a, b in zip(weights, before, strict=True))
    return weights, log_probs.detach()


def gathered(engine: Any, stage: int) -> list[torch.Tensor]:
    """Every weight, whole."""
    weights = []
    for parameter in engine.module.parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=stage == 3):
            weights.append(parameter.detach().clone())
    return weights


def compare(stage: int, tied: bool) -> dict[str, Any]:
    theirs, expected = train(Actor, stage, tied)
    ours, log_probs = train(HeadActor, stage, tied)
    return {
        "stage": stage,
        "tied": tied,
        "weights": max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True)),
        "log_probs": float((log_probs - expected).abs().max()),
        "norm": float(torch.stack([w.norm() for w in ours]).norm()),
    }


torch.set_num_threads(1)
torch._dynamo.config.disable = True  # OpenRLHF's entropy, which is compiled for half a minute
deepspeed.init_distributed()
runs = [compare(stage, tied) for stage in (0, 1, 2, 3) for tied in (False, True)]
if os.environ["RANK"] == "0":
    print("COMPARED " + json.dumps(runs))
