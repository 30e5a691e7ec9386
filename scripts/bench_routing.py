"""What routing mismatch does to the importance weight of a mixture of experts, and replay for it.

    .venv/bin/python scripts/bench_routing.py MODEL PROMPTS.jsonl [--dtype bfloat16] [--batches 4]

vLLM samples responses in --dtype and tells the experts it took; transformers computes the log-probs
of the same tokens by the same weights in float32, once with its own choice of experts and once with
the engine's. Every W is 1 but for how the two sides compute, so log W is all mismatch. Prints, by
batch: mean |log W| and the standard deviation of log W over sequences, in nats, the share of layers
of tokens whose experts differ, and what replay costs in seconds and bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from vespo_openrlhf import cpu

if cpu.is_active():
    os.environ |= cpu.environment()
cpu.install()

from vespo_openrlhf.bridge.samples.response import to_rows  # noqa: E402
from vespo_openrlhf.models import experts  # noqa: E402
from vespo_openrlhf.routing_replay import RoutingReplay  # noqa: E402


def sample(args: argparse.Namespace, prompts: list[Any]) -> list[Any]:
    """vLLM's outputs, each of one response."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        str(args.model),
        dtype=args.dtype,
        enforce_eager=True,
        enable_return_routed_experts=True,
        max_model_len=args.max_tokens + max(len(p["prompt_token_ids"]) for p in prompts),
        seed=0,
    )
    sampling = SamplingParams(temperature=1.0, max_tokens=args.max_tokens, logprobs=0)
    return list(engine.generate(prompts, sampling))


def log_probs(model: Any, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(B, T - 1) of every token but the first."""
    logits = model(tokens, attention_mask=mask).logits[:, :-1]
    return logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]


@torch.no_grad()
def compare(model: Any, replay: RoutingReplay, outputs: list[Any]) -> dict[str, float]:
    """One batch, both ways."""
    whole = [[*o.prompt_token_ids, *o.outputs[0].token_ids] for o in outputs]
    length = max(map(len, whole))
    tokens, mask, acted = torch.zeros(3, len(whole), length, dtype=torch.long).unbind()
    engine = torch.zeros(len(whole), length)
    for row, (output, sequence) in enumerate(zip(outputs, whole, strict=True)):
        start, end = len(output.prompt_token_ids), len(sequence)
        tokens[row, :end], mask[row, :end] = torch.tensor(sequence), 1
        acted[row, start:end] = 1
        sampled = zip(output.outputs[0].token_ids, output.outputs[0].logprobs, strict=True)
        engine[row, start:end] = torch.tensor([found[token].logprob for token, found in sampled])
    routed = [to_rows(output.outputs[0].routed_experts) for output in outputs]
    started = time.monotonic()
    own = log_probs(model, tokens, mask)
    between = time.monotonic()
    counted = acted.roll(-1, 1)  # the position that predicts the token
    with replay.armed(routed, mask, packed=False, counted=counted) as differing:
        replayed = log_probs(model, tokens, mask)
    ended = time.monotonic()
    own, replayed = (((p - engine[:, 1:]) * acted[:, 1:]).sum(-1) for p in (own, replayed))
    return {
        "|log W|": own.abs().mean().item(),
        "|log W| replayed": replayed.abs().mean().item(),
        "std": own.std(correction=0).item(),
        "std replayed": replayed.std(correction=0).item(),
        "differing": differing.mean().item(),
        "tokens": acted.sum().item() / len(whole),
        "seconds": between - started,
        "seconds replayed": ended - between,
        "bytes a token": sum(r.nbytes for r in routed) / sum(map(len, routed)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a folder with its tokenizer")
    parser.add_argument("prompts", type=Path, metavar="PROMPTS", help="JSON lines with a `prompt`")
    parser.add_argument("--dtype", default="bfloat16", help="the engine's (default: bfloat16)")
    parser.add_argument("--batches", type=int, default=4, help="(default: 4)")
    parser.add_argument("--size", type=int, default=128, help="responses a batch (default: 128)")
    parser.add_argument("--max-tokens", type=int, default=64, help="of a response (default: 64)")
    args = parser.parse_args()

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(args.model)
    needed = args.batches * args.size
    with open(args.prompts) as lines:
        texts = [json.loads(line)["prompt"] for line, _ in zip(lines, range(needed), strict=False)]
    messages = [[{"role": "user", "content": t}] if isinstance(t, str) else t for t in texts]
    prompts = [
        {
            "prompt_token_ids": tokenizer.apply_chat_template(m, add_generation_prompt=True)[
                "input_ids"
            ]
        }
        for m in messages
    ]
    outputs = sample(args, prompts)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    config = json.loads(model.config.to_json_string(use_diff=False))
    replay = RoutingReplay(model, experts(config))
    rows = [
        compare(model, replay, outputs[i : i + args.size])
        for i in range(0, len(outputs), args.size)
    ]
    names = list(rows[0])
    print("batch " + "  ".join(names))
    for index, row in enumerate(rows):
        print(f"{index:5d} " + "  ".join(f"{row[name]:{len(name)}.4g}" for name in names))
    means = {name: statistics.fmean(row[name] for row in rows) for name in names}
    print(" mean " + "  ".join(f"{means[name]:{len(name)}.4g}" for name in names))


if __name__ == "__main__":
    main()
