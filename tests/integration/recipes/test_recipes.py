"""Every recipe, submitted with `ray job submit` to a cluster and run for two updates.

The cluster is this machine with logical GPUs, the model is a tiny Qwen3, a mixture of experts for
the recipes of one, and flags at the end of the command line shrink the rest. Two recipes run by
default, since each takes most of a minute; VESPO_ALL_RECIPES=1 runs all of them.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vespo_openrlhf.bridge.loss import UPSTREAM_LOSSES
from vespo_openrlhf.check.__main__ import main as check
from vespo_openrlhf.embedded.arithmetic import split_problems, write_jsonl
from vespo_openrlhf.embedded.model import build_model, reproducible
from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.quickstart.local_ray import LocalCluster

SCRIPTS = Path(__file__).parents[3] / "scripts"
TIMEOUT_S = 400
# What a CPU cannot do; the memory that most of it saves is not needed here.
WITHOUT = (
    "ds.packing_samples train.dynamic_batch_enable train.max_tokens_per_gpu "
    "rollout.max_tokens_per_gpu vllm.enable_sleep ds.enable_sleep"
)
SMALL = {
    "actor.num_nodes": 1,
    "actor.num_gpus_per_node": 1,
    "vllm.num_engines": 1,
    "vllm.tensor_parallel_size": 1,
    "vllm.gpu_memory_utilization": 0.5,
    "rollout.micro_batch_size": 8,
    "train.micro_batch_size": 8,
    "train.num_episodes": 1,
    "data.max_len": 64,
    "rollout.max_new_tokens": 32,
}

DENSE, EXPERTS = "dense", "experts"
# script -> (arguments, updates per rollout batch, environment)
RECIPES = {
    "qwen3-30b-a3b-sync": (["2"], 2, {}),
    "qwen3-30b-a3b-async": ([], 4, {}),
    "qwen3-8b": ([], 2, {"N": "2"}),
    "llama-3.2-3b": ([], 2, {"N": "2", "LOSS": "gspo"}),
    "one-gpu-gsm8k": ([], 2, {"N": "2", "LOSS": "grpo", "LORA_RANK": "4"}),
    "eight-gpu-dapo-math": ([], 2, {"N": "2", "LOSS": "sapo"}),
}
ALWAYS = ("qwen3-30b-a3b-async", "one-gpu-gsm8k")
CHOSEN = RECIPES if os.environ.get("VESPO_ALL_RECIPES") == "1" else ALWAYS


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an untrained model, one that is a mixture of experts, and prompts."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = build_tokenizer()
    for name in (DENSE, EXPERTS):
        with reproducible(0):
            build_model(tokenizer, moe=name == EXPERTS).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write_jsonl(folder / "train.jsonl", split_problems(0, [64])[0])
    return folder


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    log = tmp_path_factory.mktemp("ray") / "ray.log"
    with LocalCluster(log) as running:
        yield running


def submit(
    recipe: str, model: Path, cluster: LocalCluster, run: Path
) -> subprocess.CompletedProcess[str]:
    """The recipe with its flags made small, on a model of ours."""
    arguments, updates, environment = RECIPES[recipe]
    small = {**SMALL, "data.max_samples": 4 * updates}
    return subprocess.run(
        [
            SCRIPTS / f"{recipe}.sh",
            *arguments,
            *(word for flag, value in small.items() for word in (f"--{flag}", str(value))),
        ],
        env={
            **cluster.environment,
            **environment,
            "RAY_API_SERVER_ADDRESS": cluster.dashboard,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "MODEL": str(model),
            "DATA": str(model.parent / "train.jsonl"),
            "RUN_DIR": str(run),
            "MINI_BATCH": "4",
            "SAMPLES": "4",
            "WITHOUT": WITHOUT,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
    )


@pytest.mark.parametrize("recipe", CHOSEN)
def test_a_submitted_recipe_trains(
    recipe: str, models: Path, cluster: LocalCluster, tmp_path: Path
) -> None:
    _, updates, _ = RECIPES[recipe]
    kind = EXPERTS if "a3b" in recipe else DENSE
    finished = submit(recipe, models / kind, cluster, tmp_path / "run")
    assert finished.returncode == 0, finished.stdout[-6000:]
    (line,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    loss = config["actor.policy_loss_type"]
    if config["vespo.anchor"] == "old" and loss in UPSTREAM_LOSSES:
        assert math.isfinite(line["policy_loss"])  # OpenRLHF's own, which says nothing of W
    else:
        assert line[f"{loss}/ess_ratio"] > 0
    assert config["rollout.batch_size"] * 4 == updates * config["train.batch_size"]
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_check_asks_a_running_cluster(
    models: Path,
    cluster: LocalCluster,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MODEL", str(models / DENSE))
    monkeypatch.setenv("DATA", str(models / "train.jsonl"))
    monkeypatch.setenv("MINI_BATCH", "8")
    small = ["--data.max_len", "64", "--rollout.max_new_tokens", "32"]
    words = [str(SCRIPTS / "eight-gpu-dapo-math.sh"), *small, "--address", cluster.dashboard]
    assert check(words) == 1
    output = capsys.readouterr().out
    assert "the run takes 8 GPUs" in output
    assert "the cluster has 2 (1 x 2 GPUs, running at" in output
    two = ["--actor.num_gpus_per_node", "1", "--vllm.num_engines", "1"]
    assert check([*words, *two]) == 0
