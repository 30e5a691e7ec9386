"""Two data-parallel ranks on the real stack: with a reference model and a reward server, and with
a critic and dynamic filtering; samples without a verdict, and a last batch that is short.

In both, an update is two micro-batches on each rank, and of the last update some hold nothing.
"""

from __future__ import annotations

import json
import math
import re
import runpy
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

HERE = Path(__file__).parent
score = runpy.run_path(str(HERE / "uneven_reward.py"))["score"]
N = 4
PROMPTS_PER_UPDATE = 4
RANKS = {
    "actor__num_gpus_per_node": 2,
    "ref__num_gpus_per_node": 2,
    "critic__num_gpus_per_node": 2,
    "train__micro_batch_size": 4,
}
Run = Any  # conftest's


class RewardServer(BaseHTTPRequestHandler):
    """One query a request, as OpenRLHF's engines send them."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reward, logs = score(asked["query"][0], asked["prompts"][0])
        answer = json.dumps({"rewards": [reward], "scores": [reward], "extra_logs": logs})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def reward_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), RewardServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/get_reward"
        server.shutdown()


@pytest.fixture(scope="module")
def with_reference(train: Callable[..., Run], reward_server: str) -> Run:
    """One prompt is left for the last batch: four samples, where two ranks want a micro-batch. The
    loss reads statistics of the update before, of both ranks."""
    return train(
        **RANKS,
        actor__policy_loss_type="bapo",
        reward__remote_url=reward_server,
        algo__kl__init_coef=0.01,
        train__colocate_actor_ref=True,
        data__max_samples=16 + 1,
    )


@pytest.fixture(scope="module")
def with_critic(train: Callable[..., Run]) -> Run:
    """OpenRLHF's own loss, which wants recomputed log-probs; policy and critic with adapters."""
    return train(
        **RANKS,
        ds__lora__rank=4,
        ds__lora__alpha=8,
        critic__save_value_network=True,
        reward__remote_url=HERE / "uneven_reward.py",
        actor__policy_loss_type="ppo",
        vespo__anchor="old",
        algo__advantage__estimator="gae",
        algo__dynamic_filtering_enable=True,
        algo__dynamic_filtering_range=[0.3, 1.0],
        data__max_samples=48,
    )


def trained_groups(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "samples.jsonl").open()]


def rewards(groups: list[dict[str, Any]]) -> list[float]:
    return [reward for group in groups for reward in group["rewards"] if reward is not None]


def check_batches(run: Run, loss: str) -> None:
    """Every batch is trained as it was planned, and its statistics are those of what counts."""
    groups = trained_groups(run)
    assert len({group["row"] for group in groups}) == len(groups)  # each prompt once
    updates = [group["update"] for group in groups]
    assert sorted(set(updates)) == list(range(max(updates) + 1))
    assert all(updates.count(u) == PROMPTS_PER_UPDATE for u in range(max(updates)))
    assert any(None in group["rewards"] for group in groups)
    metrics = run.metrics
    assert [line["step"] for line in metrics] == list(range(1, len(metrics) + 1))
    assert len(metrics) > 1
    for batch, line in enumerate(metrics):
        counted = rewards([group for group in groups if group["batch"] == batch])
        assert line["rollout/num_samples"] == len(counted)
        assert line["rollout/reward_mean"] == pytest.approx(sum(counted) / len(counted), abs=1e-5)
        assert line["reward"] == pytest.approx(line["rollout/reward_mean"], abs=1e-5)
        assert 0 < line["digits"] < 32
        assert line.get("answered", 1.0) == 1.0  # of whom it was known
        assert "failed" not in line  # of samples that were not trained
        assert line.get("unscored/failed", 1.0) == 1.0
        assert math.isfinite(line["policy_loss"])
        assert abs(line["rollout_kl"]) < 1  # of OpenRLHF's own loss, too
        assert 0 < line[f"{loss}/grad_norm_mean"] <= line[f"{loss}/grad_norm_max"]
        assert line[f"{loss}/num_skipped_updates"] == 0
        assert line["response_length"] > 0
    assert any("unscored/failed" in line for line in metrics)


def test_two_ranks_with_a_reference_model_and_a_reward_server(with_reference: Run) -> None:
    run = with_reference
    check_batches(run, "bapo")
    assert {group["row"] for group in trained_groups(run)} == set(range(17))
    for batch, line in enumerate(run.metrics):
        counted = rewards([g for g in trained_groups(run) if g["batch"] == batch])
        signs = ("positive", "negative", "zero")
        assert sum(line[f"bapo/num_{sign}"] for sign in signs) == len(counted)
        assert math.isfinite(line["kl"])
        # Rank 0's weights are the engine's. Were rank 1's others, half of the samples would
        # have other log-probs there than the engine gave them.
        assert line["bapo/lag_0/log_w_abs_mean"] < 1e-3
    assert run.metrics[-1]["kl"] != 0


def test_two_ranks_with_a_critic_and_dynamic_filtering(with_critic: Run) -> None:
    run = with_critic
    check_batches(run, "ppo")
    (account,) = json.loads((run.folder / "prompts.json").read_text())
    assert account["trained"] == len(trained_groups(run))
    assert account["trained"] + len(account["filtered"]) + len(account["abandoned"]) == 48
    assert account["filtered"]
    for group in trained_groups(run):
        scored = rewards([group])
        assert 0.3 < sum(scored) / len(scored) < 1.0
    for line in run.metrics:
        assert math.isfinite(line["critic_loss"])
        assert line["critic_grad_norm"] > 0
    critic = load_file(run.folder / "model_critic" / "model.safetensors")
    assert "score.weight" in critic
    assert not [name for name in critic if "lora" in name or "base" in name]
    assert (run.folder / "model_critic" / "adapter" / "adapter_config.json").is_file()


def test_a_run_with_adapters_leaves_the_merged_model_and_the_adapter(
    with_critic: Run, untrained: Path
) -> None:
    """And every sync gives the engine the merged one: what the trainer computes with."""
    (gap,) = re.findall(r"of version \d+: its log-probs are (\S+) away", with_critic.output)
    assert float(gap) < 1e-5
    updates = [json.loads(line) for line in (with_critic.folder / "updates.jsonl").open()]
    apart = {step: [] for step in range(1, 1 + len(with_critic.metrics))}
    for update in updates:
        apart[update["step"]].append(abs(update["rollout_kl"]))
    for first, *later in apart.values():  # the first of a batch is at lag 0
        assert first < 1e-5 < max(later, default=1)
    base = AutoModelForCausalLM.from_pretrained(untrained / "model")
    before = {name: value.clone() for name, value in base.state_dict().items()}
    after = AutoModelForCausalLM.from_pretrained(with_critic.folder / "model").state_dict()
    adapter = with_critic.folder / "model" / "adapter"
    merged = PeftModel.from_pretrained(base, adapter).merge_and_unload().state_dict()
    assert after.keys() == merged.keys() == before.keys()
    for name, value in after.items():
        torch.testing.assert_close(value, merged[name], rtol=0, atol=1e-6)
        assert torch.equal(value, before[name]) is not name.endswith("_proj.weight")
