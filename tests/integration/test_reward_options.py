"""The reward's flags reach the reward, on real Ray, in jobs submitted to a cluster that is up.

Mocked is only what needs engines: the job ends where they would start.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vespo_openrlhf.embedded.arithmetic import split_problems, write_jsonl
from vespo_openrlhf.embedded.model import build_model
from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.quickstart.local_ray import LocalCluster, ray_command

JOB = Path(__file__).parent / "reward_options_job.py"
REWARD = Path(__file__).parents[2] / "reward" / "math_reward.py"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """A cluster that was started without any option of the reward."""
    folder = tmp_path_factory.mktemp("cluster")
    environment = {"REWARD_OPTIONS": "", "PYTHONPATH": os.pathsep.join(sys.path)}
    with LocalCluster(folder / "ray.log", num_cpus=4, environment=environment) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def run_flags(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("run")
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_jsonl(folder / "train.jsonl", split_problems(0, [8])[0])
    flags = {
        "actor.model_name_or_path": folder / "model",
        "data.prompt_dataset": folder / "train.jsonl",
        "data.input_key": "prompt",
        "data.label_key": "label",
        "data.max_len": 64,
        "reward.remote_url": REWARD,
        "actor.policy_loss_type": "vespo",
        "algo.advantage.estimator": "group_norm",
        "rollout.n_samples_per_prompt": 2,
        "vllm.num_engines": 1,
        "actor.num_gpus_per_node": 1,
        "algo.kl.init_coef": 0,
    }
    return [part for name, value in flags.items() for part in (f"--{name}", str(value))]


@pytest.fixture(scope="module")
def outputs(cluster: LocalCluster, run_flags: list[str]) -> dict[str, str]:
    """What two jobs said, on the CPU stack and with OpenRLHF's own start of Ray, side by side: most
    of their time Ray starts processes."""
    jobs = {}
    for stack in ("cpu-stack", "openrlhfs-own-ray-init"):
        variables = {
            "REWARD_OPTIONS": json.dumps({"require_box": True, "format_reward": 0.25}),
            "NO_CPU_STACK": "0" if stack == "cpu-stack" else "1",
            "TOKENIZERS_PARALLELISM": "false",  # which OpenRLHF's own ray.init sets, too
        }
        jobs[stack] = subprocess.Popen(
            [
                *ray_command(),
                *("job", "submit", "--address", cluster.dashboard),
                *("--runtime-env-json", json.dumps({"env_vars": variables}), "--"),
                *(sys.executable, str(JOB), *run_flags, "--reward.require_box", "false"),
            ],
            env=cluster.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    return {stack: job.communicate(timeout=180)[0] for stack, job in jobs.items()}


@pytest.mark.parametrize("stack", ["cpu-stack", "openrlhfs-own-ray-init"])
def test_flags_and_the_jobs_environment_reach_the_reward_and_flags_win(
    outputs: dict[str, str], stack: str
) -> None:
    output = outputs[stack]
    lines = [line for line in output.splitlines() if line.startswith("SCORES ")]
    assert lines, output[-4000:]
    assert json.loads(lines[0].removeprefix("SCORES ")) == {
        "answer: 5": 1.0,  # the flag
        "\\boxed{5}": 1.0,
        "<think>2 + 3</think>\\boxed{5}": 1.25,  # the job's environment
    }
