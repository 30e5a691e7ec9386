"""A sample's way from engine to rank: our form of it against OpenRLHF's objects, in one run.

    .venv/bin/python scripts/bench_samples.py [--json] [--samples 512] [--repeats 5]

What either side does for a sample, in microseconds, and its bytes, for responses of 100 to 16,000
tokens:

  to driver   a scored sample is pickled by its engine and unpickled by the driver
  to rank     a rollout batch is put together, pickled, unpickled and taken apart again

Responses have 0.2 to 1.8 times the length, as padding matters. The two take turns; medians.
"""

from __future__ import annotations

import argparse
import json
import pickle
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

# OpenRLHF's classes from our module, which puts the CPU stack in place before it imports them.
from vespo_openrlhf.bridge.wire import (
    Experience,
    Rollout,
    Share,
    TrainingExperience,
    remove_padding_in_sequences,
)

LENGTHS = (100, 400, 1_600, 16_000)
PROMPT, LOGGED, GROUP = 128, 12, 8


def make_rollouts(samples: int, length: int) -> list[Rollout]:
    """Scored samples as an engine makes them, of batch 1."""
    generator = torch.Generator().manual_seed(0)
    shares = 0.2 + 1.6 * torch.rand(samples, generator=generator)
    rollouts = []
    for response in (shares * length).long().clamp(min=1).tolist():
        total = PROMPT + response
        action_mask = torch.zeros(1, total - 1, dtype=torch.long)
        action_mask[:, PROMPT - 1 :] = 1
        experience = Experience(
            sequences=torch.randint(100, 30_000, (1, total), generator=generator),
            attention_mask=torch.ones(1, total, dtype=torch.long),
            action_mask=action_mask,
            rollout_log_probs=-torch.rand(1, total - 1, generator=generator),
            prompts=["a prompt"],
            labels=["a label"],
            images=[None],
            mm_train_inputs=[None],
            rewards=torch.tensor([1.0]),
            scores=torch.tensor([1.0]),
            response_length=torch.tensor([response]),
            truncated=torch.tensor([False]),
            total_length=torch.tensor([float(total)]),
            info={f"logged_{i}": torch.tensor([0.5]) for i in range(LOGGED)},
        )
        rollouts.append(Rollout(experience, ("request",)))
    return rollouts


def to_items(rollouts: Sequence[Rollout]) -> list[TrainingExperience]:
    """Single samples as they leave the experience maker: padded, with advantages."""
    width = max(rollout.experience.sequences.shape[1] for rollout in rollouts)
    items = []
    for rollout in rollouts:
        e = rollout.experience
        pad = width - e.sequences.shape[1]
        steps = ("sequences", "attention_mask", "action_mask", "rollout_log_probs")
        padded = {name: torch.nn.functional.pad(getattr(e, name)[0], (0, pad)) for name in steps}
        scalars = ("rewards", "scores", "response_length", "truncated", "total_length")
        items.append(
            TrainingExperience(
                **padded,
                advantages=padded["rollout_log_probs"].clone(),
                returns=padded["rollout_log_probs"].clone(),
                **{name: getattr(e, name)[0] for name in scalars},
                prompts=e.prompts,
                labels=e.labels,
                images=e.images,
                mm_train_inputs=e.mm_train_inputs,
                info={name: value[0] for name, value in e.info.items()},
                lag=torch.tensor(2.0),
            )
        )
    return items


def sent(content: Any) -> tuple[Any, int]:
    """What arrives, and its bytes; large buffers go beside the pickle, as in Ray."""
    buffers: list[pickle.PickleBuffer] = []
    text = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    size = len(text) + sum(buffer.raw().nbytes for buffer in buffers)
    return pickle.loads(text, buffers=buffers), size


def objects_to_driver(rollouts: Sequence[Rollout]) -> int:
    return sum(sent(vars(rollout.experience))[1] for rollout in rollouts)


def ours_to_driver(rollouts: Sequence[Rollout]) -> int:
    return sum(sent(rollout)[1] for rollout in rollouts)


def objects_to_rank(items: Sequence[TrainingExperience]) -> int:
    from openrlhf.trainer.ppo_utils.experience import make_experience_batch, split_experience_batch

    arrived, size = sent(make_experience_batch(list(items)))
    remove_padding_in_sequences(split_experience_batch(arrived))
    return size


def ours_to_rank(items: Sequence[TrainingExperience]) -> int:
    return sent(Share(items))[1]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    parser.add_argument("--samples", type=int, default=512, help="of a rollout batch")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    options = parser.parse_args(argv)
    ways: dict[str, tuple[Callable[..., int], Callable[..., int]]] = {
        "to driver": (objects_to_driver, ours_to_driver),
        "to rank": (objects_to_rank, ours_to_rank),
    }
    if not options.json:
        print(
            f"{'':<10}{'tokens':>8}{'us a sample: objects':>22}{'ours':>8}{'ratio':>7}{'bytes':>7}"
        )
    for way, kinds in ways.items():
        for length in LENGTHS:
            rollouts: list[Any] = make_rollouts(options.samples, length)
            content = rollouts if way == "to driver" else to_items(rollouts)
            seconds: tuple[list[float], list[float]] = ([], [])
            sizes = [0, 0]
            for _ in range(options.repeats):
                for i, kind in enumerate(kinds):
                    start = time.perf_counter()
                    sizes[i] = kind(content)
                    seconds[i].append((time.perf_counter() - start) / options.samples)
            theirs, ours = (1e6 * statistics.median(taken) for taken in seconds)
            figures = {"way": way, "tokens": length, "objects_us": theirs, "ours_us": ours}
            figures |= {"ratio": ours / theirs, "bytes_ratio": sizes[1] / sizes[0]}
            if options.json:
                print(json.dumps(figures))
                continue
            print(
                f"{way:<10}{length:>8}{theirs:>13.0f}{ours:>8.0f}{ours / theirs:>7.2f}"
                f"{sizes[1] / sizes[0]:>7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
