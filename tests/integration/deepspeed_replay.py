"""Run by test_replay on every rank: trains a tiny mixture of experts with given experts under each
stage of ZeRO, with activations computed again, and prints how far it is from routers by hand."""

import functools
import json
import os
from typing import Any

import torch

from vespo_openrlhf import cpu

cpu.install()

import deepspeed  # noqa: E402
from openrlhf.utils.deepspeed.deepspeed_utils import get_train_ds_config  # noqa: E402
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM  # noqa: E402

from vespo_openrlhf.bridge.rank.head import HeadActor  # noqa: E402
from vespo_openrlhf.bridge.rank.replay import PolicyReplay  # noqa: E402
from vespo_openrlhf.bridge.wire import TrainingExperience  # noqa: E402

UPDATES = 2
SAMPLES, LENGTH, LAYERS, EXPERTS, TOP_K = 2, 12, 2, 8, 2


def build() -> HeadActor:
    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        num_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
        moe_intermediate_size=16,
        norm_topk_prob=True,
        initializer_range=0.2,
        use_cache=False,
    )
    actor = HeadActor(Qwen3MoeForCausalLM(config), temperature=0.8)
    actor.packing_samples = False
    return actor


def batches() -> list[TrainingExperience]:
    """This rank's; the last token has no experts, as it had none in the engine."""
    generator = torch.Generator().manual_seed(int(os.environ["RANK"]))
    made = []
    for _ in range(UPDATES):
        scores = torch.rand(SAMPLES, LENGTH - 1, LAYERS, EXPERTS, generator=generator)
        mask = torch.ones(SAMPLES, LENGTH, dtype=torch.long)
        made.append(
            TrainingExperience(
                sequences=torch.randint(97, (SAMPLES, LENGTH), generator=generator),
                attention_mask=mask,
                action_mask=mask[:, 1:].bool(),
                routed_experts=list(scores.topk(TOP_K, dim=-1).indices.to(torch.uint8)),
            )
        )
    return made


def by_hand(batch: TrainingExperience) -> torch.Tensor:
    """The log-probs before any update, from routers whose choice is written here."""
    actor = build()

    def route(gate: Any, ids: torch.Tensor, hidden: torch.Tensor) -> Any:
        scores = (hidden @ gate.weight.T).softmax(-1)
        chosen = scores.topk(TOP_K).indices
        chosen.view(SAMPLES, LENGTH, TOP_K)[:, :-1] = ids
        taken = scores.gather(-1, chosen)
        return scores, taken / taken.sum(-1, keepdim=True), chosen

    ids = torch.stack(batch.routed_experts).long()
    for layer, block in enumerate(actor.model.model.layers):
        gate = block.mlp.gate
        gate.forward = functools.partial(route, gate, ids[:, :, layer])
    actor._tried = True  # by way of the logits
    with torch.no_grad():
        return actor(batch.sequences, batch.action_mask, attention_mask=batch.attention_mask)


def train(stage: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Log-probs before the first update, and the weights in the end."""
    actor = build()
    actor.model.gradient_checkpointing_enable({"use_reentrant": bool(stage % 2)})
    options = get_train_ds_config(
        offload=False, adam_offload=False, stage=stage, param_dtype="fp32", zpg=1
    )
    # Or nothing of so small a model is divided.
    options["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    options |= {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_allow_untested_optimizer": True,
    }
    parameters = list(actor.model.parameters())
    # Plain descent: what it makes of rounding stays as small.
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    actor.model, *_ = deepspeed.initialize(
        model=actor.model, optimizer=optimizer, model_parameters=parameters, config=options
    )
    replay = PolicyReplay(actor)
    actor.train()
    first = None
    for batch in batches():
        with replay.armed(batch) as differing:
            log_probs, _ = actor(
                batch.sequences,
                batch.action_mask,
                attention_mask=batch.attention_mask,
                return_output=True,
            )
            weights = torch.linspace(-1, 1, log_probs.numel()).view_as(log_probs)
            actor.model.backward((log_probs * weights).mean())
        assert ((differing > 0.5) & (differing < 1.0001)).all()
        actor.model.step()
        first = log_probs.detach() if first is None else first
    weights = []
    for parameter in actor.model.module.parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=stage == 3):
            weights.append(parameter.detach().clone())
    assert first is not None
    return first, weights


torch.set_num_threads(1)
deepspeed.init_distributed()
expected = by_hand(batches()[0])
plain: list[torch.Tensor] = []
runs = []
for stage in (0, 1, 2, 3):
    log_probs, weights = train(stage)
    plain = plain or weights
    runs.append(
        {
            "stage": stage,
            "log_probs": float((log_probs - expected).abs().max()),
            "weights": max(float((a - b).abs().max()) for a, b in zip(weights, plain, strict=True)),
        }
    )
if os.environ["RANK"] == "0":
    print("REPLAYED " + json.dumps(runs))
