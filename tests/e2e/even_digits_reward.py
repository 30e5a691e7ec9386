"""A reward under which an untrained model's samples differ: the share of even digits."""

import torch


def reward_func(queries, prompts, labels):
    rewards = []
    for query, prompt in zip(queries, prompts, strict=True):
        digits = [c for c in query.removeprefix(prompt) if c.isdigit()]
        rewards.append(sum(int(c) % 2 == 0 for c in digits) / max(len(digits), 1))
    scores = torch.tensor(rewards)
    return {"rewards": scores, "scores": scores, "extra_logs": {"digits": float(len(digits))}}
