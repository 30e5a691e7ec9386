"""Bad input stops with one clear message before Ray starts. In process, on the real OpenRLHF."""

import argparse
import errno
import importlib.metadata
import json
import os
from pathlib import Path

import pytest
import ray
import torch

from vespo_openrlhf.bridge import plug, seams
from vespo_openrlhf.bridge.cli import UsageError, main
from vespo_openrlhf.bridge.errors import StoppedError, UntoldExpertsError
from vespo_openrlhf.bridge.run.checkpoints import CheckpointError, Checkpoints
from vespo_openrlhf.bridge.run.folder import RunFolder
from vespo_openrlhf.embedded.arithmetic import split_problems, write_jsonl
from vespo_openrlhf.embedded.model import build_model
from vespo_openrlhf.embedded.tokenizer import build_tokenizer
from vespo_openrlhf.scheduling import PolicyError

REWARD = Path(__file__).parents[2] / "reward" / "math_reward.py"


@pytest.fixture(autouse=True)
def no_reward_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line sets the variable for good; here it goes with the test."""
    monkeypatch.setenv("REWARD_OPTIONS", "")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Flags of a run that would start, with an untrained model."""
    folder = tmp_path_factory.mktemp("run")
    tokenizer = build_tokenizer()
    build_model(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    write_jsonl(folder / "train.jsonl", split_problems(0, [8])[0])
    return {
        "actor.model_name_or_path": str(folder / "model"),
        "data.prompt_dataset": str(folder / "train.jsonl"),
        "data.input_key": "prompt",
        "data.label_key": "label",
        "data.max_len": "64",
        "reward.remote_url": str(REWARD),
        "actor.policy_loss_type": "vespo",
        "vllm.num_engines": "1",
        "algo.advantage.estimator": "group_norm",
        "rollout.n_samples_per_prompt": "2",
    }


def refused(flags: dict[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one-line message of a run that must not start."""
    arguments = [part for name, value in flags.items() for part in (f"--{name}", value) if part]
    assert main(arguments) == 2
    assert not ray.is_initialized()
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("python -m vespo_openrlhf.train: error: ")
    return message


def rows(path: Path, *lines: dict) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def test_an_unknown_flag_is_refused_with_the_nearest(good: dict, capsys) -> None:
    message = refused(good | {"vespo.c1_po": "3"}, capsys)
    assert "unrecognized arguments: --vespo.c1_po" in message
    assert "did you mean --vespo.c1_pos?" in message


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"actor.model_name_or_path": "/nowhere/model"}, "there is no such folder"),
        ({"data.input_key": "question"}, "has no such column; it has prompt, label"),
        ({"vespo.c1_neg": "-0.5"}, "--vespo.c1_neg must be at least 0"),
        ({"vespo.c2_pos": "0"}, "--vespo.c2_pos must be above 0"),
        ({"rollout.top_p": "0.9"}, "set --rollout.top_p 1.0"),
        ({"actor.policy_loss_type": "vespa"}, "unknown policy loss 'vespa'"),
        ({"reward.remote_url": "/nowhere/reward.py"}, "there is no such file"),
        ({"rollout.batch_size": "many"}, "invalid int value"),
        ({"lag.max": "-2"}, "--lag.max must be at least 0, not -2"),
        ({"reward.overlong_buffer": "0", "reward.overlong_max": "9"}, "--reward.overlong_buffer"),
        ({"ds.load_in_4bit": ""}, "--ds.load_in_4bit does not work here"),
        ({"ds.lora.alpha": "32"}, "--ds.lora.alpha 32 has no effect without --ds.lora.rank"),
        ({"vllm.sync_with_ray": ""}, "--vllm.sync_with_ray does not work here"),
        ({"train.full_determinism_enable": ""}, "full_determinism_enable does not work here"),
        ({"train.enable_ema": "", "ckpt.load_enable": ""}, "is in no checkpoint"),
        ({"train.micro_batch_size": "6"}, "does not split evenly over 8 data-parallel ranks"),
        ({"actor.num_gpus_per_node": "3"}, "does not split evenly over 3 data-parallel ranks"),
        ({"rollout.n_samples_per_prompt": "1"}, "compares the responses to a prompt"),
        ({"rollout.max_new_tokens": "64"}, "leaves no room for a prompt in --data.max_len 64"),
        ({"data.max_len": "4096"}, "positions of the model, and vLLM will not start"),
        ({"lag.max": "99"}, "--lag.max 99 has no effect without --train.async_enable"),
        ({"eval.dataset": "/nowhere/problems.jsonl", "eval.steps": "1"}, "no such file"),
    ],
)
def test_bad_values_are_refused(good: dict, capsys, changes: dict, expected: str) -> None:
    assert expected in refused(good | changes, capsys)


def test_what_openrlhf_refuses_by_itself_is_one_message_before_ray_starts(
    good: dict, capsys
) -> None:
    images = {"data.max_images_per_prompt": "1", "algo.advantage.estimator": "gae"}
    message = refused(good | images, capsys)
    assert "OpenRLHF refuses these flags: VLM training does not support critic" in message


def test_overlong_prompts_are_counted_and_named(good: dict, capsys, tmp_path: Path) -> None:
    short, long = {"prompt": "1+1=", "label": "2"}, {"prompt": "1+" * 30 + "1=", "label": "31"}
    data = rows(tmp_path / "long.jsonl", *[short] * 2, *[long] * 5)
    flags = good | {"data.prompt_dataset": data, "rollout.max_new_tokens": "32"}
    message = refused(flags, capsys)
    assert "5 of 7 prompts of --data.prompt_dataset are longer than 32 tokens" in message
    assert "row 2: 62, row 3: 62, row 4: 62)" in message
    assert "--data.overlong_prompts skip" in message


def test_bad_reward_options_in_the_environment_are_refused(
    good: dict, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REWARD_OPTIONS", "{'require_box': false}")
    assert "REWARD_OPTIONS is not JSON" in refused(good, capsys)


def test_an_empty_dataset_is_refused(good: dict, capsys, tmp_path: Path) -> None:
    empty = rows(tmp_path / "empty.jsonl")
    assert "is empty" in refused(good | {"data.prompt_dataset": empty}, capsys)


def test_labels_that_cannot_be_rewarded_are_counted_and_shown(
    good: dict, capsys, tmp_path: Path
) -> None:
    data = rows(
        tmp_path / "labels.jsonl",
        {"prompt": "1+1=", "label": "2"},
        *({"prompt": "1+1=", "label": label} for label in ("", " ", "\\frac{1", "")),
    )
    message = refused(good | {"data.prompt_dataset": data}, capsys)
    assert "4 of the labels" in message
    assert "row 1" in message
    assert "row 3" in message
    assert "row 4" not in message


def test_another_openrlhf_is_refused_by_its_version(
    good: dict, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda n: "0.12.0" if n == "openrlhf" else upstream(n)
    )
    message = refused(good, capsys)
    assert "OpenRLHF 0.12.0 is installed" in message
    assert "pip install openrlhf==0.11.2" in message


def test_a_missing_vllm_is_named(good: dict, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *rest: None if n == "vllm" else upstream(n, *rest)
    )
    assert "vLLM is not installed" in refused(good, capsys)


def test_help_lists_openrlhfs_flags_and_ours(capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--train.async_enable", "--vespo.c1_pos", "--lag.max", "--reward.require_box"):
        assert flag in text


@pytest.mark.parametrize("seam", seams.SEAMS, ids=lambda seam: seam.name)
def test_every_seam_is_where_we_look_for_it(seam: seams.Seam) -> None:
    seam.check()


def test_a_seam_that_moved_is_named(good: dict, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    from openrlhf.trainer.ray.ppo_actor import ActorPPOTrainer

    def training_step(self):  # as in OpenRLHF before 0.11.2: four results
        loss, clip_ratio, ppo_kl, vllm_kl = self.actor_loss_fn(1)
        return loss, clip_ratio, ppo_kl, vllm_kl

    monkeypatch.setattr(ActorPPOTrainer, "training_step", training_step)
    message = refused(good, capsys)
    assert "policy loss: ActorPPOTrainer.actor_loss_fn" in message
    assert "the loss returns 4 values, not 5" in message
    assert "openrlhf==0.11.2" in message


@pytest.fixture
def until_ray(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """The flags of each start that comes as far as Ray, where it is stopped."""
    if torch.cuda.is_available():
        pytest.skip("stops where the CPU stack starts Ray")
    started: list[dict] = []

    def stop(self: plug.RayStart, flags: dict) -> None:
        started.append(dict(flags))
        raise UsageError("as far as Ray")

    monkeypatch.setattr(plug.RayStart, "on_cpu", stop)
    return started


def test_a_secret_reaches_openrlhf_and_is_neither_written_down_nor_printed(
    good: dict, capsys, tmp_path: Path, until_ray: list[dict]
) -> None:
    secret = {"logger.wandb.key": "WANDBSECRET", "run.dir": str(tmp_path), "ckpt.save_steps": "4"}
    assert "as far as Ray" in refused(good | secret, capsys)
    from openrlhf.utils.config import hierarchize

    (flags,) = until_ray
    assert flags["logger.wandb.key"] == "WANDBSECRET"
    assert "WANDBSECRET" not in str(hierarchize(argparse.Namespace(**flags)))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.json", "flags.json"} <= {path.name for path in written}
    assert not [path for path in written if "WANDBSECRET" in path.read_text()]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["logger.wandb.key"] == "***"
    assert config["data.input_key"] == "prompt"


def test_the_run_folder_is_held_while_a_run_goes_on(
    good: dict, capsys, tmp_path: Path, until_ray: list[dict]
) -> None:
    flags = good | {"run.dir": str(tmp_path)}
    with RunFolder(tmp_path).locked():
        message = refused(flags, capsys)
        assert f"is in use by process {os.getpid()} on" in message
    assert not until_ray
    assert not (tmp_path / "config.json").exists()
    assert "as far as Ray" in refused(flags, capsys)
    assert "as far as Ray" in refused(flags, capsys)  # it let go


def test_a_resume_with_other_flags_is_refused_before_ray_starts(
    good: dict, capsys, tmp_path: Path, until_ray: list[dict]
) -> None:
    flags = good | {"run.dir": str(tmp_path), "ckpt.save_steps": "4"}
    refused(flags, capsys)
    with Checkpoints(tmp_path / "checkpoints").saving("global_step4"):
        (tmp_path / "checkpoints" / "_actor" / "global_step4").mkdir(parents=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 4}\n')
    assert "add --ckpt.load_enable to go on with it from global_step4" in refused(flags, capsys)
    again = [part for name, value in flags.items() for part in (f"--{name}", value)]
    again.append("--ckpt.load_enable")
    assert main([*again, "--rollout.n_samples_per_prompt", "4"]) == 2
    assert "--rollout.n_samples_per_prompt 2 -> 4" in capsys.readouterr().err
    assert len(until_ray) == 1
    assert main([*again, "--actor.adam.lr", "1e-5"]) == 2
    assert "--actor.adam.lr 1e-06 -> 1e-05 (from the checkpoint on)" in capsys.readouterr().out
    assert until_ray[1]["ckpt.resume_tag"] == "global_step4"


def test_a_finished_run_started_again_says_so_and_leaves_everything(
    good: dict, capsys, tmp_path: Path, until_ray: list[dict]
) -> None:
    flags = good | {"run.dir": str(tmp_path)}
    refused(flags, capsys)
    (tmp_path / "metrics.jsonl").write_text('{"step": 4}\n')
    RunFolder(tmp_path).finish(1)
    assert "holds a run already: finished" in refused(flags, capsys)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.name != "lock"}
    again = [part for name, value in flags.items() for part in (f"--{name}", value)]
    assert main([*again, "--ckpt.load_enable"]) == 0
    assert f"--run.dir {tmp_path} is finished" in capsys.readouterr().out
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.name != "lock"}
    assert after == before
    assert len(until_ray) == 1


@pytest.mark.parametrize(
    "error",
    [
        CheckpointError("checkpoint global_step4 was not saved: no room"),
        StoppedError("no reward answers"),
        UntoldExpertsError("vLLM has told the experts of 0 tokens"),
        PolicyError("lag.policy mine.py:Mine chooses a group twice"),
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "samples.jsonl"),
    ],
)
def test_a_run_that_ends_for_a_reason_says_it_in_one_message(
    good: dict, capsys, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """As Ray hands the trainer's error over, with its trace before it."""
    if torch.cuda.is_available():
        pytest.skip("fails where the CPU stack starts Ray")
    raised = ray.exceptions.RayTaskError("fit", "a trace", error).as_instanceof_cause()

    def fail(self: plug.RayStart, flags: dict) -> None:
        raise raised

    monkeypatch.setattr(plug.RayStart, "on_cpu", fail)
    arguments = [part for name, value in good.items() for part in (f"--{name}", value)]
    assert main(arguments) == 1
    shown = capsys.readouterr().err.strip().splitlines()[-1]
    assert shown.startswith(f"python -m vespo_openrlhf.train: error: {error}")
