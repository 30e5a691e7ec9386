"""Which flags of a recorded run go to a training from it, and what is refused."""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from vespo_openrlhf.bridge.run.folder import RunFolder
from vespo_openrlhf.embedded import calculator
from vespo_openrlhf.replay.cells import make_cells, make_jobs
from vespo_openrlhf.replay.flags import (
    DROPPED,
    LOSS_FLAGS,
    loss_flag,
    read_config,
    to_words,
    training_flags,
)

ASYNC = (
    *("--train.async_enable", "--train.partial_rollout_enable", "--lag.max", "8"),
    *("--rollout.in_flight_per_engine", "64", "--vllm.gpu_memory_utilization", "0.5"),
    *("--reward.format_reward", "0.1", "--ckpt.save_steps", "5", "--train.num_episodes", "3"),
)


def words(run: Path, loss: str, parser: argparse.ArgumentParser) -> list[str]:
    return to_words(training_flags(read_config(run), loss_flag(loss)), parser)


def parsed(run: Path, loss: str, parser: argparse.ArgumentParser) -> dict[str, Any]:
    return vars(parser.parse_args(words(run, loss, parser)))


def test_every_name_in_the_tables_is_a_flag(parser: argparse.ArgumentParser) -> None:
    flags = vars(parser.parse_args([]))
    for name in (*DROPPED, *LOSS_FLAGS):
        assert any(flag == name or (name[-1] == "." and flag.startswith(name)) for flag in flags)


def test_how_samples_are_trained_on_stays_and_how_they_were_made_goes(
    record: Callable[..., Path], parser: argparse.ArgumentParser
) -> None:
    run = record(*ASYNC, "--actor.muon.no_nesterov", "--reward.clip_range", "-5", "5")
    found = parsed(run, "vespo", parser)
    default = vars(parser.parse_args([]))
    kept = {
        "actor.adam.lr": 3e-4,
        "actor.muon.nesterov": False,
        "algo.advantage.estimator": "group_norm",
        "data.max_len": 64,
        "reward.clip_range": [-5, 5],
        "rollout.batch_size": 4,
        "train.batch_size": 8,
    }
    assert {name: found[name] for name in kept} == kept
    for name in (
        *("train.async_enable", "train.partial_rollout_enable", "lag.max", "vllm.num_engines"),
        *("rollout.in_flight_per_engine", "vllm.gpu_memory_utilization", "reward.format_reward"),
        *("ckpt.save_steps", "ckpt.path", "train.num_episodes", "data.max_samples", "run.record"),
        *("run.dir", "reward.remote_url", "data.prompt_dataset", "logger.wandb.key"),
    ):
        assert found[name] == default[name], name


def test_only_what_is_not_a_default_is_said(
    record: Callable[..., Path], parser: argparse.ArgumentParser
) -> None:
    said = words(record(), "vespo", parser)
    assert "--actor.adam.lr" in said
    assert "--actor.adam.betas" not in said


def test_the_runs_own_loss_keeps_its_options(
    record: Callable[..., Path], parser: argparse.ArgumentParser
) -> None:
    run = record(
        *("--actor.policy_loss_type", "vespo", "--vespo.c1_pos", "1.5"),
        *("--vespo.loss_options", "tis_cap=2", "--vespo.anchor", "old"),
    )
    own, other = parsed(run, "vespo", parser), parsed(run, "gspo", parser)
    assert own["vespo.c1_pos"] == 1.5
    assert own["vespo.loss_options"] == ["tis_cap=2"]
    assert own["vespo.anchor"] == "old"
    assert other["vespo.c1_pos"] == 2.0
    assert other["vespo.loss_options"] == []
    assert other["vespo.anchor"] == "rollout"


def test_a_clip_stays_with_its_loss(
    record: Callable[..., Path], parser: argparse.ArgumentParser
) -> None:
    run = record(
        *("--actor.policy_loss_type", "ppo", "--actor.eps_clip_low_high", "0.1", "0.3"),
        *("--actor.dual_clip", "inf"),
    )
    grpo, gspo = parsed(run, "grpo", parser), parsed(run, "gspo", parser)
    assert grpo["actor.policy_loss_type"] == "ppo"
    assert grpo["actor.eps_clip_low_high"] == [0.1, 0.3]
    assert grpo["actor.dual_clip"] == math.inf
    assert gspo["actor.eps_clip_low_high"] is None
    assert gspo["actor.dual_clip"] is None


def test_a_correction_of_openrlhfs_own_loss_stays_with_it(
    record: Callable[..., Path], tmp_path: Path, parser: argparse.ArgumentParser
) -> None:
    prefix = "--algo.advantage.is_correction"
    run = record(
        *("--actor.policy_loss_type", "ppo", "--vespo.anchor", "old", f"{prefix}_level", "seq"),
        *(f"{prefix}_threshold", "0.5", "2.0"),
    )
    jobs = make_jobs(
        make_cells(["ppo", "vespo"], [1], []), run, read_config(run), tmp_path, parser, []
    )
    level = "algo.advantage.is_correction_level"
    assert [job.flags[level] for job in jobs] == ["seq", "token"]


@pytest.mark.parametrize(
    "given",
    [
        ASYNC,
        ("--train.agent_func_path", calculator.__file__, "--agent.weight", "turn"),
        ("--train.colocate_all", "--vllm.num_engines", "1"),
        ("--algo.dynamic_filtering_enable", "--vespo.recompute_old_log_probs"),
    ],
    ids=["async", "agent", "colocated", "filtered"],
)
def test_training_takes_what_is_left_of_any_run(
    given: Sequence[str],
    record: Callable[..., Path],
    tmp_path: Path,
    parser: argparse.ArgumentParser,
) -> None:
    run = record("--actor.policy_loss_type", "vespo", "--algo.kl.init_coef", "0", *given)
    cells = make_cells(["vespo", "grpo"], [1], [])
    make_jobs(cells, run, read_config(run), tmp_path / "out", parser, [])


def test_a_loss_of_the_users_own_is_the_runs_by_its_whole_path(
    record: Callable[..., Path],
    tmp_path: Path,
    parser: argparse.ArgumentParser,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "mine.py").write_text("def loss(inputs, *, k=1): ...\n")
    run = record(
        *("--actor.policy_loss_type", f"{tmp_path}/mine.py:loss", "--vespo.loss_options", "k=2")
    )
    monkeypatch.chdir(tmp_path)
    assert parsed(run, "mine.py:loss", parser)["vespo.loss_options"] == ["k=2"]


def test_what_is_no_recorded_run_is_refused(record: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere holds no config.json.*no such folder"):
        read_config(tmp_path / "nowhere")
    run = record()
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"run.record": False}))
    with pytest.raises(ValueError, match=r"recorded no samples: train with --run.record"):
        read_config(run)
    (run / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        read_config(run)
    (run / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="no flags of a training run"):
        read_config(run)


def test_a_run_that_is_still_training_is_refused(record: Callable[..., Path]) -> None:
    """Or each loss would be given other samples."""
    run = record()
    read_config(run)
    with RunFolder(run).locked(), pytest.raises(ValueError, match="is in use by process"):
        read_config(run)
    read_config(run)
