"""The driver's time for advantages: OpenRLHF's experience maker against ours, in one run.

    .venv/bin/python scripts/bench_experience.py [--json] [--estimator dr_grpo] [--micro-batch 8]

`make_experience_batch` on 1,024 responses of 3 million tokens, groups of 8, no KL penalty; models
answer at once, so what is timed is the driver's own work while the trainer waits for it. The two
take turns on the same samples. Prints the median seconds of each, the ratio, and by how much the
advantages differ (with group_norm the 1e-6 and 1e-9 that are added to the standard deviation do).
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import statistics
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

# OpenRLHF's classes from our modules, which put the CPU stack in place before they import it.
from vespo_openrlhf.bridge.samples.experience import ExperienceMaker, RemoteExperienceMaker
from vespo_openrlhf.bridge.wire import Experience

RESPONSES, TOKENS, GROUP, PROMPT = 1024, 3_000_000, 8, 128


def make_samples() -> list[Experience]:
    """Responses of 0.2 to 1.8 times the mean length, 0/1 rewards; every eighth group is all right
    or all wrong."""
    generator = torch.Generator().manual_seed(0)
    shares = 0.2 + 1.6 * torch.rand(RESPONSES, generator=generator)
    lengths = (shares / shares.sum() * TOKENS).long()
    lengths[-1] += TOKENS - lengths.sum()
    rewards = (torch.rand(RESPONSES // GROUP, GROUP, generator=generator) < 0.4).float()
    rewards[::8] = rewards[::8, :1]
    samples = []
    for length, reward in zip(lengths.tolist(), rewards.flatten(), strict=True):
        total = PROMPT + length
        action_mask = torch.zeros(1, total - 1, dtype=torch.bool)
        action_mask[:, PROMPT - 1 :] = True
        samples.append(
            Experience(
                sequences=torch.randint(100, 30_000, (1, total), generator=generator),
                attention_mask=torch.ones(1, total, dtype=torch.long),
                action_mask=action_mask,
                rollout_log_probs=-torch.rand(1, total - 1, generator=generator),
                rewards=reward[None],
                scores=reward[None],
                response_length=torch.tensor([length]),
                truncated=torch.tensor([False]),
                total_length=torch.tensor([float(total)]),
                info={"reward": reward[None]},
            )
        )
    return samples


def make_maker(kind: type, estimator: str, micro_batch: int) -> Any:
    """An experience maker whose actor is one rank that knows its answer."""
    off = SimpleNamespace(overlong_buffer_len=None, stop_properly_penalty_coef=None)
    args = SimpleNamespace(
        algo=SimpleNamespace(
            advantage=SimpleNamespace(estimator=estimator, gamma=1.0, lambd=1.0, no_std_norm=False),
            kl=SimpleNamespace(use_loss=False),
        ),
        rollout=SimpleNamespace(n_samples_per_prompt=GROUP, micro_batch_size=micro_batch),
        reward=SimpleNamespace(**vars(off), clip_range=(-10, 10)),
        train=SimpleNamespace(
            dynamic_batch_enable=False, colocate_all=False, colocate_actor_ref=False
        ),
        ds=SimpleNamespace(ring_attn_size=1, tensor_parallel_size=1),
    )

    def forward(method_name: str, action_mask: list[torch.Tensor], **_: Any) -> Any:
        return [[torch.full(mask.shape, -0.5) for mask in action_mask]]

    actor = SimpleNamespace(
        _actor_handlers=[None], duplicate_actors=1, async_run_method_batch=forward
    )
    strategy, tokenizer = SimpleNamespace(args=args), SimpleNamespace(pad_token_id=0)
    return kind(actor, None, None, None, SimpleNamespace(value=0.0), strategy, tokenizer)


def run(maker: Any, samples: list[Experience]) -> tuple[float, torch.Tensor]:
    """Seconds of one call, and the advantage of every action token."""
    samples = copy.deepcopy(samples)
    start = time.perf_counter()
    experiences = maker.make_experience_batch(samples)
    seconds = time.perf_counter() - start
    # Padding has other values, which nothing reads.
    return seconds, torch.cat([e.advantages[e.action_mask] for e in experiences])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--estimator", default="group_norm", help="--algo.advantage.estimator")
    parser.add_argument("--micro-batch", type=int, default=1, help="--rollout.micro_batch_size")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each")
    options = parser.parse_args(argv)
    logging.disable(logging.INFO)
    samples = make_samples()
    kinds = {"openrlhf": RemoteExperienceMaker, "ours": ExperienceMaker}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    advantages = {}
    # Ray's part: objects pass as they are.
    with mock.patch("ray.put", lambda value: value), mock.patch("ray.get", lambda value: value):
        for _ in range(options.repeats):
            for name, kind in kinds.items():
                maker = make_maker(kind, options.estimator, options.micro_batch)
                taken, advantages[name] = run(maker, samples)
                seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["ours"] / medians["openrlhf"]
    difference = (advantages["ours"] - advantages["openrlhf"]).abs().max().item()
    if options.json:
        figures = {"seconds": medians, "ratio": ratio, "largest_difference": difference}
        print(json.dumps({**vars(options), **figures}))
        return
    print(f"make_experience_batch, {RESPONSES} responses, {TOKENS:,} tokens, {options.estimator}")
    for name, median in medians.items():
        print(f"{name:>9}: {median:.2f} s")
    print(f"    ratio: {ratio:.3f}; advantages differ by at most {difference:.1e}")


if __name__ == "__main__":
    main()
