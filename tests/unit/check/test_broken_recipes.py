"""Each recipe is broken in one way, and check says which and what to write instead."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from vespo_openrlhf.recorded.schema import Origin, RecordedSample
from vespo_openrlhf.recorded.writing import write_shard

Check = Callable[..., tuple[int, str]]
CONFIGS = Path(__file__).parents[2] / "data" / "configs"
ON_ONE_NODE = ("--nodes", "1", "--gpus-per-node", "8")
OUT = None  # as a value: the flag is left out

# what is wrong -> (flags that differ, what is found, what to change)
BROKEN = {
    "a flag is mistyped": (
        {"vespo.c1_po": "3"},
        "unrecognized arguments: --vespo.c1_po",
        "did you mean --vespo.c1_pos?",
    ),
    "no problems to evaluate": (
        {"eval.dataset": "/nowhere/validation.parquet", "eval.steps": "8"},
        "--eval.dataset",
        "there is no such file",
    ),
    "gradients added up in a type that is passed over": (
        {"ds.grad_accum_dtype": "fp32", "ds.zero_stage": "2"},
        "--ds.grad_accum_dtype fp32 has no effect with --ds.zero_stage 2",
        "set --ds.zero_stage 3",
    ),
    "a size is zero": ({"train.batch_size": "0"}, "--train.batch_size is 0", "at least 1"),
    "ranks of no size": ({"ds.ring_attn_size": "0"}, "--ds.ring_attn_size is 0", "at least 1"),
    "a number is none": ({"rollout.batch_size": "many"}, "--rollout.batch_size", "invalid int"),
    "a choice does not exist": (
        {"ds.param_dtype": "int8"},
        "--ds.param_dtype: invalid choice: 'int8'",
        "bf16",
    ),
    "the loss has no such name": (
        {"actor.policy_loss_type": "vespa"},
        "unknown policy loss 'vespa'",
        "Known: vespo",
    ),
    "options for a loss that is OpenRLHF's own": (
        {
            "actor.policy_loss_type": "gspo",
            "vespo.anchor": "old",
            "vespo.loss_options": "tau_pos=1",
        },
        "--vespo.loss_options are for the losses of this project",
        "leave them out",
    ),
    "a kernel without a bound": (
        {"vespo.c1_neg": "-0.5"},
        "--vespo.c1_neg must be at least 0",
        "not -0.5: below it a response counts the more",
    ),
    "sampling from a truncated distribution": (
        {"rollout.top_p": "0.9"},
        "biases the importance weight",
        "set --rollout.top_p 1.0",
    ),
    "the mismatch corrected twice": (
        {"algo.advantage.is_correction_level": "seq"},
        "it would count twice",
        "leave the flag out",
    ),
    "updates do not divide the batch": (
        {"rollout.batch_size": "100"},
        "--rollout.batch_size 100 prompts x --rollout.n_samples_per_prompt 8 = 800 samples do not "
        "split into mini-batches of --train.batch_size 256",
        "a divisor of 800 and a multiple of 8",
    ),
    "updates split groups": (
        {"rollout.n_samples_per_prompt": "6", "train.batch_size": "256"},
        "mini-batches of --train.batch_size 256 that hold whole groups of 6",
        "a divisor of 768 and a multiple of 6",
    ),
    "ranks get unequal parts": (
        {"actor.num_gpus_per_node": "3"},
        "--train.batch_size 256 does not split evenly over 3 data-parallel ranks",
        "a multiple of 3",
    ),
    "one response is no group": (
        {"rollout.n_samples_per_prompt": "1"},
        "--algo.advantage.estimator group_norm compares the responses to a prompt",
        "set it to 2 or more",
    ),
    "the lag bound cannot be kept": (
        {"lag.max": "2"},
        "lag.max 2 cannot be kept",
        "Set lag.max to at least 3",
    ),
    "syncs too rare for the bound": (
        {"lag.max": "4", "lag.sync_every": "7"},
        "with a weight sync every 7 updates",
        "set lag.sync_every to 4",
    ),
    "partial rollout without asynchrony": (
        {"train.async_enable": OUT},
        "requires --train.async_enable",
        "",
    ),
    "more GPUs than there are": (
        {"vllm.num_engines": "6"},
        "the run takes 10 GPUs (4 of the trainer + 6 of the engines",
        "lower --actor.num_nodes",
    ),
    "more GPUs per node than a node has": (
        {"actor.num_gpus_per_node": "16", "vllm.num_engines": "1"},
        "--actor.num_gpus_per_node 16, but no node has more than 8",
        "set --actor.num_gpus_per_node 8",
    ),
    "heads do not split": (
        {"vllm.tensor_parallel_size": "3", "vllm.num_engines": "1"},
        "does not divide the model's 32 attention heads",
        "power of two",
    ),
    "colocated engines of another size": (
        {
            "train.async_enable": OUT,
            "train.partial_rollout_enable": OUT,
            "train.colocate_all": "",
            "vllm.num_engines": "3",
        },
        "the trainer has 4 and 3 engines x 1 have 3",
        "set --vllm.num_engines 4",
    ),
    "no engine": (
        {"vllm.num_engines": OUT},
        "samples come from vLLM",
        "set --vllm.num_engines to 1",
    ),
    "samples trained twice": (
        {"train.max_epochs": "2"},
        "every sample is trained once",
        "leave the flag out",
    ),
    "a group that no engine can hold": (
        {"rollout.in_flight_per_engine": "4"},
        "is less than one group of 8 samples",
        "",
    ),
    "no such data": (
        {"data.prompt_dataset": "/nowhere/train.jsonl"},
        "--data.prompt_dataset /nowhere/train.jsonl",
        "there is no such file",
    ),
    "no such column": (
        {"data.input_key": "question"},
        "has no such column",
        "it has prompt, label",
    ),
    "no such model": (
        {"actor.model_name_or_path": "/nowhere/model"},
        "--actor.model_name_or_path /nowhere/model",
        "no such folder",
    ),
    "no such reward": (
        {"reward.remote_url": "/nowhere/reward.py"},
        "--reward.remote_url /nowhere/reward.py",
        "no such file",
    ),
    "no reward at all": (
        {"reward.remote_url": OUT},
        "nothing gives a reward",
        "set --reward.remote_url",
    ),
    "no room for a prompt": (
        {"data.max_len": "8192"},
        "--rollout.max_new_tokens 8192 leaves no room for a prompt",
        "set --data.max_len 9216",
    ),
    "longer than the model reads": (
        {"data.max_len": "65536"},
        "more than the 32768 positions of the model",
        "at most 32768",
    ),
    "updates in unequal micro-batches": (
        {"train.micro_batch_size": "3"},
        "--train.batch_size 256 does not split evenly over 4 data-parallel ranks of the actor x 3",
        "a multiple of 12",
    ),
    "a rollout batch in unequal micro-batches": (
        {"rollout.micro_batch_size": "3"},
        "a rollout batch of 1024 responses does not split evenly over 4 data-parallel ranks of the "
        "actor x 3",
        "a multiple of 12",
    ),
    "sequences over ranks that are not there": (
        {"actor.num_gpus_per_node": "3", "ds.ring_attn_size": "2"},
        "3 GPUs of --actor.num_gpus_per_node do not split into groups of 2",
        "a multiple of 2",
    ),
    "adapters that are trained as they do not sample": (
        {"ds.lora.rank": "16", "ds.lora.dropout": "0.05"},
        "--ds.lora.dropout does not go with --ds.lora.rank",
        "leave it out",
    ),
    "packed weights": (
        {"ds.load_in_4bit": ""},
        "--ds.load_in_4bit does not work here",
        "leave the flag out",
    ),
    "weights over a group that cannot be joined again": (
        {"vllm.sync_with_ray": ""},
        "--vllm.sync_with_ray does not work here",
        "leave the flag out",
    ),
    "an engine in one process": (
        {"train.full_determinism_enable": ""},
        "--train.full_determinism_enable does not work here",
        "--train.seed",
    ),
    "an average that no checkpoint holds": (
        {"train.enable_ema": "", "ckpt.load_enable": ""},
        "the moving average is in no checkpoint",
        "leave one of them out",
    ),
    "a lag bound without asynchrony": (
        {"train.async_enable": OUT, "train.partial_rollout_enable": OUT},
        "--lag.max 7 has no effect without --train.async_enable",
        "no token is then older than 3 updates",
    ),
    "staleness that nothing corrects": (
        {"actor.policy_loss_type": "ppo", "vespo.anchor": "old"},
        "--vespo.anchor old with --train.async_enable",
        "add --algo.advantage.is_correction_level token",
    ),
    "a lag steered by nothing": (
        {
            "actor.policy_loss_type": "gspo",
            "vespo.anchor": "old",
            "algo.advantage.is_correction_level": "token",
            "lag.target_ess": "0.5",
        },
        "--actor.policy_loss_type gspo reports none",
        "leave one of the flags out",
    ),
    "a clip of another loss": (
        {"actor.eps_clip": "0.1"},
        "--actor.eps_clip 0.1 has no effect on --actor.policy_loss_type vespo",
        "leave it out",
    ),
    "a critic that is not there": (
        {"critic.model_name_or_path": "some/critic"},
        "--critic.model_name_or_path some/critic has no effect here",
        "take gae",
    ),
    "the trainer does not fit": (
        {"ds.zero_stage": "0"},
        "the trainer takes",
        "set --ds.zero_stage 3",
    ),
    "activations do not fit": (
        {"actor.gradient_checkpointing_enable": OUT},
        "most of it activations of all layers",
        "add --actor.gradient_checkpointing_enable",
    ),
    "the KV cache does not fit": (
        {"vllm.gpu_memory_utilization": "0.2"},
        "less than one sequence of 9216",
        "raise --vllm.tensor_parallel_size",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_recipe_is_found_with_what_to_change(fault: str, good: dict, check: Check) -> None:
    changes, found, change = BROKEN[fault]
    flags = {name: value for name, value in (good | changes).items() if value is not OUT}
    status, output = check(flags, *ON_ONE_NODE)
    assert status == 1
    (line,) = [e for e in output.splitlines() if e.startswith("error") and found in e]
    assert change in line


def test_a_good_recipe_passes(good: dict, check: Check) -> None:
    status, output = check(good, *ON_ONE_NODE)
    assert status == 0, output
    assert "ready" in output
    assert "error" not in output
    assert "warning" not in output


def test_what_training_sets_by_itself_is_no_fault(good: dict, check: Check) -> None:
    overlong = {"reward.overlong_max": "8192"}  # counts tokens; with the policy's tokenizer
    status, output = check(good | overlong, *ON_ONE_NODE)
    assert status == 0, output


def test_a_run_that_is_there_already_is_found(good: dict, check: Check) -> None:
    run = Path(good["run.dir"])
    run.mkdir()
    (run / "metrics.jsonl").touch()
    status, output = check(good, *ON_ONE_NODE)
    assert status == 1
    assert "holds a run already: without a checkpoint to go on from" in output
    assert check(good | {"ckpt.load_enable": ""}, *ON_ONE_NODE)[0] == 0


def test_no_nodes_at_all_are_refused(good: dict, check: Check) -> None:
    status, output = check(good, "--nodes", "0")
    assert status == 1
    assert "--nodes and --gpus-per-node are at least 1" in output


def test_every_fault_is_found_at_once(good: dict, check: Check) -> None:
    faults = {"lag.max": "2", "rollout.top_p": "0.9", "data.input_key": "question"}
    status, output = check(good | faults, *ON_ONE_NODE)
    assert status == 1
    assert "3 to change" in output


def test_a_tokenizer_without_a_chat_template_is_found(
    good: dict, check: Check, model: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((bare / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(config))
    status, output = check(good | {"actor.model_name_or_path": str(bare)}, *ON_ONE_NODE)
    assert status == 1
    assert "has no chat template" in output


def test_prompts_over_the_limit_are_counted(
    good: dict, check: Check, rows: Callable[..., str]
) -> None:
    short, long = {"prompt": "1+1=", "label": "2"}, {"prompt": "1+1=" * 2000, "label": "2"}
    flags = good | {"data.prompt_dataset": rows(*[short] * 128, *[long] * 3)}
    status, output = check(flags, *ON_ONE_NODE)
    assert status == 1
    assert "3 of 131 prompts of --data.prompt_dataset are longer than 1024 tokens" in output
    assert "row 128" in output
    skip = {"data.overlong_prompts": "skip"}
    status, output = check(flags | skip, *ON_ONE_NODE)
    assert status == 0
    assert "3 of 131 prompts are too long and will be left out" in output
    only_long = good | {"data.prompt_dataset": rows(*[long] * 128)}
    assert check(only_long | skip, *ON_ONE_NODE)[0] == 1


def test_fewer_prompts_than_a_batch_are_warned_of(good: dict, check: Check) -> None:
    """Such a run works: its only batch is a short one."""
    status, output = check(good | {"rollout.batch_size": "1024", "lag.max": "63"}, *ON_ONE_NODE)
    assert status == 0, output
    (line,) = [w for w in output.splitlines() if w.startswith("warning")]
    assert "have 512 prompts, fewer than a rollout batch of 1024" in line
    assert "at most 512" in line


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("exit 3", "fails with status 3"),
        ("true", "does not call `ray job submit`"),
        ("ray job submit -- python train.py --lr 1", "`python -m vespo_openrlhf.train FLAGS`"),
        ('ray job submit -- "python -m vespo_openrlhf.train --n 1"', "unrecognized arguments: --n"),
    ],
)
def test_a_script_that_submits_no_training_is_named(
    text: str, found: str, tmp_path: Path, check: Check
) -> None:
    script = tmp_path / "broken.sh"
    script.write_text(f"#!/usr/bin/env bash\n{text}\n")
    status, output = check({}, str(script))
    assert status == 1
    assert found in output


def test_nothing_heavy_is_imported(good: dict) -> None:
    words = [word for name, value in good.items() for word in (f"--{name}", value) if word]
    code = (
        "import sys; from vespo_openrlhf.check.__main__ import main; main(sys.argv[1:]); "
        "print(*sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert "ready" in finished.stdout
    loaded = set(finished.stdout.splitlines()[-1].split())
    assert not loaded & {"vllm", "ray", "openrlhf", "deepspeed", "transformers"}


def test_a_recording_stands_for_prompts_engines_and_a_reward(
    good: dict, check: Check, tmp_path: Path
) -> None:
    gone = ("data.prompt", "reward.", "train.async", "train.partial", "lag.", "vllm.")
    flags = {name: value for name, value in good.items() if not name.startswith(gone)}
    status, text = check(flags | {"offline.data": str(tmp_path)})
    assert status == 1
    assert "holds no recorded rollouts" in text
    tokens = numpy.arange(4)
    sample = RecordedSample(0, 0, 8, "0:abc", tokens, tokens > 1, numpy.zeros(4), 1.0)
    write_shard(tmp_path / "one.parquet", [sample], Origin("run"))
    status, text = check(flags | {"offline.data": str(tmp_path)})
    assert status == 0, text
    assert "is recorded: vespo recorded show" in " ".join(text.split())
