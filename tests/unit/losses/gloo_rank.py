"""One data-parallel rank of test_invariance.py::test_two_gloo_ranks: python gloo_rank.py R DIR."""

import dataclasses
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from vespo_openrlhf.losses import POLICY_LOSS_NAMES, LossInputs, get_policy_loss


def main(rank: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=2
    )
    step = LossInputs(**torch.load(folder / "step.pt"))
    rows = slice(0, 3) if rank == 0 else slice(3, 9)  # unequal parts
    parts = {
        field.name: value[rows]
        for field in dataclasses.fields(step)
        if isinstance(value := getattr(step, field.name), torch.Tensor) and value.dim() == 2
    }
    shard = dataclasses.replace(step, dp_size=2, **parts)
    averaged = {}
    for name in POLICY_LOSS_NAMES:
        policy_loss = get_policy_loss(name)
        inputs = shard
        if policy_loss.statistics is not None:
            statistics = policy_loss.statistics(shard)
            dist.all_reduce(statistics)
            inputs = dataclasses.replace(shard, statistics=statistics)
        loss, _ = policy_loss(inputs)
        (gradient,) = torch.autograd.grad(loss, step.log_probs)
        dist.all_reduce(gradient)
        averaged[name] = gradient / 2
    if rank == 0:
        torch.save(averaged, folder / "gradients.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
