"""The larger model, of 5.1 million parameters, whose answers are of uneven length.

It does the embedded model's sums, but works each out once or several times over ("checking"): after
a boxed sum it goes on with probability `AGAIN`, and so writes 25 to 256 tokens, 85 in the mean. It
forgets the carry as often as the embedded model does, and the last box counts.

To teach this to five million parameters would take many minutes on two cores. So the embedded
model is taught it, which takes a minute, and then grown: its weights stand in the corner of larger
ones, and what is new adds nothing to the residual stream until training changes it. The larger
model computes at its full size what the small one does.
"""

from __future__ import annotations

import copy
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from vespo_openrlhf.embedded.arithmetic import Problem, split_problems, worked_solution
from vespo_openrlhf.embedded.model import labelled, reproducible, teach
from vespo_openrlhf.peers.task import LARGE

#: The chance of working a sum out once more, and the most times.
AGAIN, MOST = 0.7, 8
FORGET_SHARE = 0.62
STEPS, ROWS, PEAK_LR = 240, 32, 1e-3
GROWN = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": LARGE.max_prompt_tokens + LARGE.max_response_tokens,
}


def build(embedded: Path, out: Path) -> None:
    """Write the model and its tokenizer to `out`, from the embedded model's folder; once."""
    if (out / "config.json").exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(embedded / "model")
    model = Qwen3ForCausalLM.from_pretrained(embedded / "model", dtype=torch.float32)
    settings = json.loads((embedded / "manifest.json").read_text())["settings"]
    used = settings["heldout_problems"] + settings["train_problems"]
    problems = split_problems(settings["seed"], [used, STEPS * ROWS])[1]
    with reproducible(settings["seed"]):
        batches = demonstrations(tokenizer, problems)
        teach(model, batches, STEPS, PEAK_LR, rise=0.1, weight_decay=0.01, progress=False)
        model = grow(model)
    tokenizer.model_max_length = GROWN["max_position_embeddings"]
    part = out.with_name(out.name + ".part")
    model.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(out)


def solution(problem: Problem, rng: random.Random) -> str:
    """Worked out once or more, always by the same student."""
    worked = worked_solution(problem, forget_carry=rng.random() < FORGET_SHARE)
    times = 1
    while times < MOST and rng.random() < AGAIN:
        times += 1
    return "\n".join([worked] * times)


def demonstrations(
    tokenizer: PreTrainedTokenizerFast, problems: list[Problem]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and labels of `ROWS` `solution`s at a time."""
    rng = random.Random("uneven")
    for start in range(0, len(problems), ROWS):
        rows = problems[start : start + ROWS]
        yield labelled(tokenizer, rows, [solution(problem, rng) for problem in rows])


def grow(small: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """A model of the size `GROWN` that gives the same logits, up to rounding.

    The small one's stream of D entries is the first part of the large one's, and the rest is zero
    where nothing writes to it: new rows of what writes to the stream are zero, and so are the new
    columns, which read new heads and units. All else that is new is random and so has a gradient to
    give. The root of a mean over more entries is smaller, which the norms' weights take back.
    """
    config = Qwen3Config(**{**copy.deepcopy(small.config).to_dict(), **GROWN, "layer_types": None})
    shrink = (small.config.hidden_size / config.hidden_size) ** 0.5
    config.rms_norm_eps *= shrink**2
    config._attn_implementation = "sdpa"
    large = Qwen3ForCausalLM(config)
    large.generation_config = small.generation_config
    writers = ("embed_tokens.weight", "o_proj.weight", "down_proj.weight")
    have = small.state_dict()
    with torch.no_grad():
        for name, weight in large.state_dict().items():
            if name.endswith(writers):
                weight.zero_()
            if name not in have:
                continue
            of_stream = name.endswith("layernorm.weight") or name == "model.norm.weight"
            corner = tuple(slice(size) for size in have[name].shape)
            weight[corner] = have[name] * (shrink if of_stream else 1.0)
    return large.float()


if __name__ == "__main__":
    build(*map(Path, sys.argv[1:]))
