"""One rank of test_sample_metrics.py::test_copies_of_a_sample_count_once: RANK DIR MESH..."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from vespo_openrlhf.bridge.rank.loss_adapter import PolicyLossAdapter
from vespo_openrlhf.bridge.rank.sample_metrics import SampleMetrics
from vespo_openrlhf.bridge.rank.update_metrics import UpdateMetrics
from vespo_openrlhf.losses import get_policy_loss


def measured(shape: tuple[int, ...]) -> dict[str, Any]:
    mesh = init_device_mesh("cpu", shape, mesh_dim_names=("dp", "sp", "tp"))
    data_rank, data_ranks = mesh["dp"].get_local_rank(), mesh["dp"].get_group()
    rows = data_rank + 2  # the last has no log-prob of the engine's, and is dropped
    rollout = -torch.ones(rows, 3)
    rollout[-1] = torch.nan
    adapter = PolicyLossAdapter(get_policy_loss("vespo"), data_ranks)
    ones = torch.ones(rows, 3)
    updates = UpdateMetrics(1, data_ranks)
    for update in range(2):
        log_probs = -(1.0 + update * data_rank) * ones
        updates.watched(adapter)(log_probs.requires_grad_(), -ones, ones, ones, rollout)
        adapter.end_update()
        updates.end_update(1.0)
    mask = ones.clone()
    mask[-1] = 0
    samples = SampleMetrics()
    status = {
        "metrics": {
            "reward": torch.full((rows,), float(data_rank)),
            "kl": torch.tensor(float(data_rank)),
        },
        "weights": {"reward": "sample", "kl": "token"},
        "num_action_tokens": float(mask.sum()),
    }
    samples.take(status, mask)
    metrics = adapter.drain() | samples.drain(data_ranks)
    metrics["updates"] = [
        row | own for row, own in zip(updates.drain(), adapter.by_update(), strict=True)
    ]
    return metrics


def main(rank: int, folder: Path, meshes: list[str]) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=4
    )
    metrics = {mesh: measured(tuple(map(int, mesh.split(",")))) for mesh in meshes}
    (folder / f"{rank}.json").write_text(json.dumps(metrics))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
