"""The even-digits reward, which is not a number for sums that begin with 9."""

import torch


def reward_func(queries, prompts, labels):
    scores = torch.tensor(
        [
            float("nan") if "\n9" in prompt else sum(c in "02468" for c in query) / len(query)
            for query, prompt in zip(queries, prompts, strict=True)
        ]
    )
    return {"rewards": scores, "scores": scores, "extra_logs": {}}
