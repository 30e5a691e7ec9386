"""TRL's side: `python -m vespo_openrlhf.peers.trl_run JOB.json`, in TRL's own environment.

Of ours it imports what needs nothing installed: the judgement of an answer, and the numbers of the
job. Writes into `OUT/batches.jsonl` when training began, `{"began"}`, and then a line per rollout
batch, `{"time", "reward", "samples"}`; times are seconds since the epoch.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from vespo_openrlhf.files import read_json_lines
from vespo_openrlhf.peers.task import LEARNING_RATE, MIN_LEARNING_RATE_SHARE, WARM_UP_SHARE
from vespo_openrlhf.reward import verify


def main(path: str) -> None:
    job = json.loads(Path(path).read_text())
    # Here, not at the top: our own environment, which has no TRL, imports this module in tests.
    import torch
    import transformers
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    transformers.logging.set_verbosity_error()
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    rows = read_json_lines(Path(job["data"]))
    dataset = Dataset.from_list(to_rows(rows[: job["prompts"] * job["batches"]], tokenizer))
    model = AutoModelForCausalLM.from_pretrained(
        job["model"], dtype=torch.float32, attn_implementation="sdpa"
    )
    rewards: list[float] = []
    file = open(Path(job["out"]) / "batches.jsonl", "w", buffering=1)  # noqa: SIM115

    def reward(completions: list[str], label: list[str], **_: Any) -> list[float]:
        scores = [
            float(verify(text, gold).correct) for text, gold in zip(completions, label, strict=True)
        ]
        rewards.extend(scores)
        return scores

    class Record(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            file.write(json.dumps({"began": time.time()}) + "\n")

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % job["updates"] == 0:
                line = {
                    "time": time.time(),
                    "reward": sum(rewards) / len(rewards),
                    "samples": len(rewards),
                }
                file.write(json.dumps(line) + "\n")
                rewards.clear()

    trainer = GRPOTrainer(
        model,
        reward_funcs=reward,
        args=GRPOConfig(**options(job)),
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[Record()],
    )
    trainer.train()
    file.close()


def to_rows(rows: list[dict[str, str]], tokenizer: Any) -> list[dict[str, str]]:
    """Prompts as the model reads them, rendered once rather than in each step."""

    def render(prompt: str) -> str:
        message = [{"role": "user", "content": prompt}]
        text: str = tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True
        )
        return text

    return [{"prompt": render(row["prompt"]), "label": row["label"]} for row in rows]


def options(job: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `GRPOConfig`: the other peers' job in TRL's words, and nothing that costs
    time on the side."""
    samples = job["prompts"] * job["samples_per_prompt"]
    steps = job["updates"] * job["batches"]
    return {
        "output_dir": str(Path(job["out"]) / "trl"),
        # One generation of a rollout batch, then that many updates on parts of it.
        "per_device_train_batch_size": samples // job["updates"],
        "gradient_accumulation_steps": 1,
        "steps_per_generation": job["updates"],
        "num_iterations": 1,
        "num_generations": job["samples_per_prompt"],
        "max_completion_length": job["max_response_tokens"],
        "max_steps": steps,
        # The loss: as published, without KL.
        "loss_type": "vespo",
        "beta": 0.0,
        "scale_rewards": "group",
        # From the whole distribution.
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        # The optimizer: OpenRLHF's AdamW.
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": MIN_LEARNING_RATE_SHARE},
        "warmup_steps": round(WARM_UP_SHARE * steps),
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        # The machine: float32 on a CPU, with all activations kept.
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "use_vllm": False,
        "use_transformers_continuous_batching": job["continuous"],
        # Nothing on the side.
        "logging_steps": job["updates"],
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "seed": job["seed"],
    }


if __name__ == "__main__":
    main(sys.argv[1])
