"""`python reward_options_job.py FLAGS...`: a training job up to where its engines would start.

There an actor loads the reward as OpenRLHF's rollout engines do, and what it says is printed. With
NO_CPU_STACK=1 OpenRLHF starts Ray itself, as it does on a GPU machine.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import openrlhf.trainer.ray
import ray

from vespo_openrlhf import cpu
from vespo_openrlhf.bridge.cli import main


@ray.remote(num_cpus=0)
def scores(reward_file: str) -> dict[str, float]:
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    reward_func = SingleTurnAgentExecutor(reward_file).reward_func
    return {
        response: float(reward_func([response], [""], ["5"])["rewards"][0])
        for response in ("answer: 5", "\\boxed{5}", "<think>2 + 3</think>\\boxed{5}")
    }


def probe(*args: Any, remote_rm_url: list[str], **kwargs: Any) -> None:
    print("SCORES", json.dumps(ray.get(scores.remote(remote_rm_url[0]))), flush=True)
    sys.exit(0)


if __name__ == "__main__":
    if os.environ.get("NO_CPU_STACK") == "1":
        cpu.is_active = lambda: False  # type: ignore[assignment]
    openrlhf.trainer.ray.create_vllm_engines = probe
    sys.exit(main(sys.argv[1:]))
