"""What a resume may change: one rule for every flag, and the choice of the checkpoint."""

from __future__ import annotations

import argparse
import json
import math
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.bridge import resume
from vespo_openrlhf.bridge.cli import extend_parser
from vespo_openrlhf.bridge.run.checkpoints import Checkpoints
from vespo_openrlhf.bridge.run.folder import RunFolder


@pytest.fixture(scope="module")
def defaults() -> dict[str, Any]:
    """Every flag that training takes, OpenRLHF's and ours, with its default."""
    found: dict[str, Any] = {}

    class ParsedError(Exception):
        pass

    def parse_args(parser: argparse.ArgumentParser) -> None:
        extend_parser(parser)
        found.update({action.dest: action.default for action in parser._actions})
        raise ParsedError

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        patched.setattr(sys, "argv", ["train"])
        with pytest.raises(ParsedError):
            runpy.run_module("openrlhf.cli.train_ppo_ray", run_name="__main__")
    del found["help"]
    return found


@pytest.fixture
def flags(defaults: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return defaults | {
        "run.dir": str(tmp_path),
        "ckpt.path": str(tmp_path / "checkpoints"),
        "ckpt.load_enable": True,
        "ckpt.save_steps": 8,
        "logger.wandb.key": "SECRET",
    }


def save(flags: dict[str, Any], step: int) -> None:
    """A whole checkpoint, as far as files go."""
    tag = f"global_step{step}"
    with Checkpoints(Path(flags["ckpt.path"])).saving(tag):
        (Path(flags["ckpt.path"]) / "_actor" / tag).mkdir(parents=True)


def start(flags: dict[str, Any], **changed: Any) -> tuple[str | None, list[str]]:
    """Start a run up to Ray: the checkpoint it goes on from, and its lines."""
    run = RunFolder(Path(flags["run.dir"]))
    flags = flags | {name.replace("__", "."): value for name, value in changed.items()}
    with run.locked():
        lines = resume.prepare(flags, run)
        run.begin(flags, {})
    return flags["ckpt.resume_tag"], lines


def test_every_flag_has_one_rule_and_every_rule_a_flag(defaults: dict[str, Any]) -> None:
    tables = [*resume.REFUSED, *resume.APPLIED, *resume.IGNORED]
    assert len(tables) == len(set(tables))
    used = {resume.rule_of(flag)[1] for flag in defaults}
    assert used == {*tables} - {"ckpt.resume_tag"}


@pytest.mark.parametrize(
    ("flag", "rule"),
    [
        ("rollout.n_samples_per_prompt", "refuse"),
        ("rollout.batch_size", "refuse"),
        ("rollout.in_flight_per_engine", "apply"),
        ("actor.policy_loss_type", "refuse"),
        ("vespo.c1_pos", "refuse"),
        ("vespo.on_nonfinite", "apply"),
        ("algo.advantage.estimator", "refuse"),
        ("actor.adam.lr", "apply"),
        ("actor.adam.betas", "refuse"),
        ("actor.lr_scheduler", "refuse"),
        ("ds.zero_stage", "refuse"),
        ("lag.max", "apply"),
        ("lag.policy", "apply"),
        ("ckpt.save_steps", "apply"),
        ("eval.steps", "apply"),
        ("vllm.num_engines", "apply"),
        ("train.num_episodes", "apply"),
        ("data.max_samples", "refuse"),
        ("logger.wandb.run_name", "ignore"),
    ],
)
def test_rules(flag: str, rule: str) -> None:
    assert resume.rule_of(flag)[0] == rule


def test_a_resume_with_the_same_flags_changes_nothing(flags: dict[str, Any]) -> None:
    assert start(flags)[0] is None
    save(flags, 8)
    tag, lines = start(flags, logger__wandb__run_name="another")
    assert tag == "global_step8"
    assert lines == [f"going on from checkpoint global_step8 in {flags['ckpt.path']}"]
    assert "SECRET" not in (Path(flags["ckpt.path"]) / "flags.json").read_text()


@pytest.mark.parametrize(
    "changed",
    [
        {"rollout__n_samples_per_prompt": 4},
        {"train__batch_size": 64},
        {"actor__policy_loss_type": "grpo"},
        {"vespo__loss_options": ["beta=1"]},
        {"rollout__temperature": 0.7},
        {"data__max_len": 99},
        {"actor__adam__betas": (0.9, 0.99)},
        {"ds__zero_stage": 3},
        {"actor__num_gpus_per_node": 4},
    ],
)
def test_what_the_checkpoint_is_bound_to_is_refused(
    flags: dict[str, Any], changed: dict[str, Any]
) -> None:
    start(flags)
    save(flags, 8)
    save(flags, 16)
    (Path(flags["ckpt.path"]) / "_actor" / "global_step24").mkdir()
    before = sorted(Path(flags["run.dir"]).rglob("*"))
    (name, value), = changed.items()  # fmt: skip
    flag = name.replace("__", ".")
    old, new = (" ".join(map(str, v)) if isinstance(v, list | tuple) else v
                for v in (flags[flag], value))  # fmt: skip
    with pytest.raises(ValueError, match="written with other flags") as refused:
        start(flags, **changed)
    message = str(refused.value)
    assert f"--{flag} {old} -> {new} (" in message
    assert "Give the old ones to go on" in message
    assert sorted(Path(flags["run.dir"]).rglob("*")) == before
    assert start(flags)[0] == "global_step16"


def test_a_run_from_before_the_dual_clip_was_a_default_can_go_on() -> None:
    """Its flags say None, which now stands for what the loss was published with; inf is none."""
    before = {"actor.policy_loss_type": "ppo", "actor.dual_clip": None}
    assert resume.changes(before, before | {"actor.dual_clip": math.inf}) == []
    with pytest.raises(ValueError, match=r"--actor\.dual_clip inf -> 3\.0 "):
        resume.changes(before, before | {"actor.dual_clip": 3.0})


def test_all_that_is_refused_is_named_at_once(flags: dict[str, Any]) -> None:
    start(flags)
    save(flags, 8)
    with pytest.raises(ValueError, match=r"--rollout\.batch_size .*--vespo\.c1_pos 2.0 -> 4.0"):
        start(flags, rollout__batch_size=3, vespo__c1_pos=4.0, lag__max=9)


def test_what_may_change_is_applied_and_said(flags: dict[str, Any]) -> None:
    start(flags)
    save(flags, 8)
    changed = {"lag__max": 9, "actor__adam__lr": 1e-5, "eval__steps": 4, "train__num_episodes": 2}
    lines = "\n".join(start(flags, **changed)[1])
    assert "--lag.max None -> 9 (from the checkpoint on)" in lines
    assert "--actor.adam.lr 1e-06 -> 1e-05 (from the checkpoint on)" in lines
    config = json.loads((Path(flags["run.dir"]) / "config.json").read_text())
    assert config["ckpt.resume_tag"] == "global_step8"
    assert config["actor.adam.lr"] == 1e-5
    first = json.loads((Path(flags["run.dir"]) / "config-1.json").read_text())
    assert first["actor.adam.lr"] == 1e-6
    # The next start is held against the newest.
    assert len(start(flags, **changed)[1]) == 1


def test_the_same_ranks_on_other_nodes_are_the_same(flags: dict[str, Any]) -> None:
    flags["algo.advantage.estimator"] = "gae"
    start(flags)
    save(flags, 8)
    ranks = {"actor__num_nodes": 2, "actor__num_gpus_per_node": 4}
    assert len(start(flags, **ranks)[1]) == 3
    with pytest.raises(ValueError, match=r"--critic\.num_gpus_per_node 8 -> 72"):
        start(flags, **ranks, critic__num_nodes=9)


def test_checkpoints_of_a_version_that_kept_no_flags_are_held_against_the_config(
    flags: dict[str, Any],
) -> None:
    start(flags)
    save(flags, 8)
    (Path(flags["ckpt.path"]) / "flags.json").unlink()
    with pytest.raises(ValueError, match=r"--rollout\.n_samples_per_prompt 1 -> 4"):
        start(flags, rollout__n_samples_per_prompt=4)
    (Path(flags["run.dir"]) / "config.json").unlink()
    assert start(flags, rollout__n_samples_per_prompt=4)[0] == "global_step8"


def test_without_a_checkpoint_the_run_starts_anew_and_says_so(flags: dict[str, Any]) -> None:
    (tag, lines) = start(flags)
    assert (tag, lines) == (None, [f"no checkpoint in {flags['ckpt.path']} yet: starting from the "
                                   "beginning"])  # fmt: skip
    (Path(flags["run.dir"]) / "metrics.jsonl").touch()
    # With whatever flags: nothing binds it.
    tag, lines = start(flags, rollout__n_samples_per_prompt=4)
    assert tag is None
    assert "holds of an earlier start is moved to superseded/" in lines[0]


def test_a_finished_run_is_not_trained_again(flags: dict[str, Any]) -> None:
    start(flags)
    save(flags, 8)
    RunFolder(Path(flags["run.dir"])).finish(1)
    before = sorted(Path(flags["run.dir"]).rglob("*"))
    with pytest.raises(resume.Finished, match=r"--train\.num_episodes 1 were trained"):
        start(flags)
    with pytest.raises(ValueError, match="written with other flags"):
        start(flags, rollout__n_samples_per_prompt=4)
    assert sorted(Path(flags["run.dir"]).rglob("*")) == before
    assert start(flags, train__num_episodes=2)[0] == "global_step8"
    assert start(flags, train__num_episodes=2)[0] == "global_step8"  # killed on its way there


def test_a_finished_run_without_a_checkpoint_cannot_go_on(flags: dict[str, Any]) -> None:
    start(flags)
    RunFolder(Path(flags["run.dir"])).finish(1)
    with pytest.raises(resume.Finished):
        start(flags)
    with pytest.raises(ValueError, match=r"left no checkpoint .*--actor\.model_name_or_path"):
        start(flags, train__num_episodes=2)


def test_no_flags_are_kept_where_no_checkpoints_are(flags: dict[str, Any]) -> None:
    start(flags, ckpt__save_steps=-1)
    start(flags, ckpt__disable_ds=True)
    assert not Path(flags["ckpt.path"]).exists()
